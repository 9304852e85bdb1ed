package resolve

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/digest"
)

// Transfer is a resolve under way, as people are shown it.
type Transfer struct {
	Package digest.Digest `json:"package"`
	Name    string        `json:"name,omitempty"` // with its version; "" until the meta is there
	Holder  string        `json:"holder"`
	Done    int64         `json:"bytes-done"`  // of Total
	Total   int64         `json:"bytes-total"` // what was missing at the beginning; 0 until all metas are there
	Missing int           `json:"blobs-missing"`
	Since   time.Time     `json:"since"`
}

// tellEvery is the least interval between progress reports of transfers.
const tellEvery = 500 * time.Millisecond

// transfers are the resolves under way. The writing index, which has an entry
// for each for exactly that time, notifies of their beginnings and ends; told
// notifies of their progress.
type transfers struct {
	mu    sync.Mutex // guards what follows
	jobs  map[*job]struct{}
	last  time.Time   // of the last progress report
	timer *time.Timer // reports what has come too soon after that; nil if nothing has
}

// Transfers lists the resolves under way, the oldest first.
func (r *Resolver) Transfers() []Transfer {
	r.transfers.mu.Lock()
	defer r.transfers.mu.Unlock()
	list := make([]Transfer, 0, len(r.transfers.jobs))
	for j := range r.transfers.jobs {
		list = append(list, j.transfer())
	}
	slices.SortFunc(list, func(a, b Transfer) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Package.Compare(b.Package), cmp.Compare(a.Holder, b.Holder))
	})
	return list
}

func (j *job) transfer() Transfer {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Transfer{Package: j.pkg, Name: j.title, Holder: j.holder, Done: j.at.Done, Total: j.at.Total, Missing: j.left, Since: j.since}
}

// enter shows a resolve; leave removes it.
func (r *Resolver) enter(j *job) {
	r.transfers.mu.Lock()
	defer r.transfers.mu.Unlock()
	r.transfers.jobs[j] = struct{}{}
}

func (r *Resolver) leave(j *job) {
	r.transfers.mu.Lock()
	defer r.transfers.mu.Unlock()
	delete(r.transfers.jobs, j)
	if len(r.transfers.jobs) == 0 && r.transfers.timer != nil {
		r.transfers.timer.Stop() // the end is reported anyway
		r.transfers.timer = nil
	}
}

// progressed reports that a transfer has changed: at once, or, if the last
// report was a moment ago, as soon as the next may follow.
func (r *Resolver) progressed() {
	if r.Progressed == nil {
		return
	}
	t := &r.transfers
	t.mu.Lock()
	wait := tellEvery - time.Since(t.last)
	switch {
	case t.timer != nil:
		t.mu.Unlock()
		return
	case wait > 0 && len(t.jobs) > 0:
		t.timer = time.AfterFunc(wait, r.tellLate)
		t.mu.Unlock()
		return
	}
	t.last = time.Now()
	t.mu.Unlock()
	r.Progressed()
}

func (r *Resolver) tellLate() {
	r.transfers.mu.Lock()
	due := r.transfers.timer != nil // else the last transfer has just ended
	r.transfers.timer, r.transfers.last = nil, time.Now()
	r.transfers.mu.Unlock()
	if due {
		r.Progressed()
	}
}

// lacks sets how many blobs are known to be missing.
func (j *job) lacks(blobs int) {
	j.mu.Lock()
	j.left = blobs
	j.mu.Unlock()
	j.r.progressed()
}

// got counts one of them as fetched.
func (j *job) got() {
	j.mu.Lock()
	j.left = max(j.left-1, 0)
	j.mu.Unlock()
	j.r.progressed()
}

// named sets the name of the package.
func (j *job) named(title string) {
	j.mu.Lock()
	j.title = title
	j.mu.Unlock()
	j.r.progressed()
}
