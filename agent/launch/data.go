package launch

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/lull/lull/agent/userdata"
)

// userData makes the folders of the user's data,
//
//	~/.local/share/lull/<instance>/<rev>   of this revision
//	~/.local/share/lull/<instance>/common  of all
//
// and brings the data of the revision before over, if this one has none yet.
// A package without versioned data has only the second.
func (l *launch) userData(ctx context.Context) (data, common string, err error) {
	home, err := userdata.Home()
	if err != nil {
		return "", "", within(err, "it has no place for its data")
	}
	p := userdata.Of(l.Root, home, l.Instance)
	common = p.Common()
	// XDG Base Directory: what is made on the way is the user's alone.
	if err := os.MkdirAll(common, 0o700); err != nil {
		return "", "", within(err, "it has no place for its data")
	}
	if !l.versions {
		return common, common, nil
	}
	data = p.Revision(l.rev)
	if p.Has(l.rev) {
		return data, common, nil
	}
	unlock, err := p.Lock(ctx, func() {
		if isTerminal(l.Stderr) {
			fmt.Fprintf(l.Stderr, "lull: %s waits: its data is being brought over\n", l.Instance)
		}
	})
	if err != nil {
		return "", "", err
	}
	defer unlock()
	show := progress{out: l.Stderr, name: l.Instance}
	var told func(done, total int64)
	if isTerminal(l.Stderr) {
		told = show.show
	}
	err = p.Bring(ctx, l.rev, told, nil)
	show.end()
	return data, common, err
}

// progress is a line that is drawn over itself.
type progress struct {
	out   *os.File
	name  string
	last  time.Time
	drawn bool
}

const redraw = 100 * time.Millisecond

func (p *progress) show(done, total int64) {
	if now := time.Now(); now.Sub(p.last) >= redraw {
		p.last, p.drawn = now, true
		fmt.Fprintf(p.out, "\r\x1b[Klull: bringing the data of %s over: %s", p.name, fraction(done, total))
	}
}

func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func fraction(done, total int64) string {
	if total <= 0 {
		return megabytes(done)
	}
	return fmt.Sprintf("%d%% of %s", min(done, total)*100/total, megabytes(total))
}

func megabytes(n int64) string {
	if n < 10_000_000 {
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
	}
	return strconv.FormatInt(n/1_000_000, 10) + " MB"
}
