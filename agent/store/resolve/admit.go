package resolve

import (
	"errors"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
)

// errRefused marks an admission that a collection cannot help.
var errRefused = errors.New("not enough space")

// nameBytes is about the size of a name in a directory and its inode.
const nameBytes = 320

// admit sees to it that the disk can take what is missing, beside what other
// resolves have been promised; it collects if that helps.
func (j *job) admit(missing []store.Want, links int) error {
	if len(missing) == 0 {
		return nil
	}
	for collected := false; ; collected = true {
		short, err := j.short(missing, links)
		if err != nil || short == nil {
			return err
		}
		plan, err := gc.MakePlan(j.ctx, j.r.store, index.Firm(j.r.indices.Snapshot()))
		if err != nil {
			return err
		}
		if j.r.Collect != nil && !collected && len(plan.Doubts) == 0 && plan.Bytes > 0 && short.lacks(plan) <= 0 {
			if err := j.r.Collect(j.ctx); err != nil {
				return err
			}
			continue
		}
		return short.refuse(j.transfer().Name, plan)
	}
}

// shortage is the error with the needed and the free space.
type shortage struct {
	need, free   int64
	reserve      int64 // bytes that are free and not to be used: what the file of the reserve lacks
	kept         int64 // bytes of that file, which are not free
	files, inode int64 // wanted; free
}

func (s *shortage) lacks(plan *gc.Plan) int64 {
	lack := s.need - s.free - plan.Bytes
	if s.inode >= 0 {
		lack = max(lack, s.files-s.inode-int64(len(plan.Blobs)))
	}
	return lack
}

func (s *shortage) refuse(name string, plan *gc.Plan) error {
	size := func(n int64) string { return humanize.Bytes(uint64(max(0, n))) }
	need, free, freeable := size(s.need), size(s.free+s.reserve), size(plan.Bytes)
	text := ""
	switch {
	case s.inode >= 0 && s.files > s.inode:
		text = errkind.Text("%d files needed, %d free", s.files, s.inode)
	case s.reserve > 0:
		text = errkind.Text("%s needed, %s free, of which %s are a reserve (gc.reserve in the policy), %s can be freed", need, free, size(s.reserve), freeable)
	case s.kept > 0:
		text = errkind.Text("%s needed, %s free beside a reserve of %s (gc.reserve in the policy), %s can be freed", need, free, size(s.kept), freeable)
	default:
		text = errkind.Text("%s needed, %s free, %s can be freed", need, free, freeable)
	}
	p := errkind.New(errkind.NoSpace, "cannot fetch %s: %s", name, text)
	p.Err = errRefused
	if len(plan.Doubts) > 0 {
		return p.WithHint("nothing can be freed, because it is unknown what is needed; lull verify --repair may help")
	}
	return p.WithHint("remove something; lull du shows what takes space, lull why what keeps it")
}

// short pledges the bytes, or returns what is lacking.
func (j *job) short(missing []store.Want, links int) (*shortage, error) {
	space, err := j.r.store.Space()
	if err != nil {
		return nil, err
	}
	need := int64(links) * nameBytes
	for _, w := range missing {
		rest := max(0, w.Size-j.ingest.Partial(w.Key))
		need += (rest + space.Block - 1) / space.Block * space.Block
	}
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	s := &shortage{need: need, free: space.Free - j.r.pledged, files: int64(len(missing)), inode: space.Files}
	// The space of the file is not free any more, and must not be counted twice.
	var want int64
	if want, s.kept, err = j.r.store.Reserve(); err != nil {
		return nil, err
	}
	s.reserve = max(want-s.kept, 0)
	s.free -= s.reserve
	if s.need > s.free || s.inode >= 0 && s.files > s.inode {
		return s, nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.r.pledged += need - j.pledged
	j.pledged = need
	return nil, nil
}

// releaseReservation gives back what was pledged and not used.
func (j *job) releaseReservation() {
	j.mu.Lock()
	rest := j.pledged
	j.pledged = 0
	j.mu.Unlock()
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	j.r.pledged -= rest
}

// expect begins to count.
func (j *job) expect(missing []store.Want) {
	defer j.r.progressed()
	j.mu.Lock()
	defer j.mu.Unlock()
	p := &j.at
	p.Done, p.Total = 0, 0
	for _, w := range missing {
		p.Total += w.Size
		p.Done += min(w.Size, j.ingest.Partial(w.Key))
	}
	j.counted, j.from = time.Now(), p.Done
	if p.Total > p.Done { // else the blobs come from the pack, which was counted
		p.Fetch, p.Write = p.Total-p.Done, j.pledged
	}
	j.tellLocked()
}

// advance counts bytes that have been written.
func (j *job) advance(n int64) {
	j.mu.Lock()
	j.at.Done = min(j.at.Done+n, j.at.Total)
	used := min(n, j.pledged)
	j.pledged -= used
	j.tellLocked()
	j.mu.Unlock()
	j.r.progressed()
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	j.r.pledged -= used
}

// finished counts what others have fetched for us.
func (j *job) finished() {
	defer j.r.progressed()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.at.Done, j.left = j.at.Total, 0
	j.tellLocked()
}

func (j *job) tellLocked() {
	j.at.Speed = 0
	if spent := time.Since(j.counted); spent >= time.Second && j.at.Done < j.at.Total {
		j.at.Speed = int64(float64(j.at.Done-j.from) / spent.Seconds())
	}
	if j.progress != nil {
		j.progress(j.at)
	}
}
