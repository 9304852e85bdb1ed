package launch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/userd/userdata"
)

// userData makes the directories of the user's data,
//
//	~/.local/share/lull/<instance>/<rev>   of this revision
//	~/.local/share/lull/<instance>/common  of all
//
// and brings the data of the revision before over, if this one has none yet; package
// userdata has the rules. A package without versioned data has only the second.
func (l *launch) userData(ctx context.Context) (data, common string, err error) {
	home, why, err := userdata.Home()
	if err != nil {
		return "", "", within(err, errkind.Text("it has no place for its data"))
	}
	if why != "" {
		l.say(journal.PriWarning, errkind.Text("the data of %s is below %s, because %s", l.Instance, home, why), "")
	}
	p := userdata.Of(l.Root, home, l.Instance)
	show := progress{out: l.Stderr, name: l.Instance}
	hooks := userdata.Hooks{Waits: func() {
		if isTerminal(l.Stderr) {
			fmt.Fprintf(l.Stderr, "lull: %s\n", translated(errkind.Text("%s waits: its data is being brought over", l.Instance)))
		}
	}}
	if isTerminal(l.Stderr) {
		hooks.Progress = show.show
	}
	common, err = p.MakeCommon(ctx, hooks)
	if err != nil {
		show.end()
		return "", "", within(err, errkind.Text("it has no place for its data"))
	}
	d := userdata.Data{Dir: common}
	if l.data.Versioned {
		d, err = p.Enter(ctx, l.rev, hooks)
	}
	if err == nil && l.data.XDG {
		err = l.baseDirs(ctx, p, home, d.Dir, common, hooks)
	}
	show.end()
	if err != nil {
		return "", "", err
	}
	l.sayMissing(ctx, p, d)
	if d.Note != nil {
		l.say(journal.PriWarning, errkind.Text("the data of %s can be used, but %v", l.Instance, d.Note), "")
	}
	return d.Dir, common, nil
}

// maxNamed bounds how many missing files a message names.
const maxNamed = 3

// sayMissing reports what the copy of the data lacks, and where it is.
func (l *launch) sayMissing(ctx context.Context, p userdata.Place, d userdata.Data) {
	if d.MissingCount == 0 {
		return
	}
	var list strings.Builder
	for i, m := range d.Missing {
		if i == maxNamed {
			break
		}
		fmt.Fprintf(&list, " %q (%s);", filepath.Join(p.Base, m.In, m.Path), m.Why)
	}
	more := ""
	if n := d.MissingCount - maxNamed; n > 0 {
		more = errkind.Text(" and %d more;", n)
	}
	l.say(journal.PriWarning, errkind.Text("%d of the files of %s could not be copied from the data of the version before:%s%s they stay there, and lull doctor lists them",
		d.MissingCount, l.Instance, list.String(), more), messages.DataMissing)
	if l.Service == "" && len(d.Missing) > 0 {
		first := d.Missing[0]
		l.showMissing(ctx, d.MissingCount, first.Path, filepath.Join(p.Base, first.In))
	}
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
		fmt.Fprintf(p.out, "\r\x1b[Klull: %s", translated(errkind.Text("bringing the data of %s over: %s", p.name, fraction(done, total))))
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
	return errkind.Text("%d%% of %s", min(done, total)*100/total, megabytes(total))
}

func megabytes(n int64) string {
	if n < 10_000_000 {
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
	}
	return strconv.FormatInt(n/1_000_000, 10) + " MB"
}
