package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// preparedFlags are those of `lull refresh --prepared`, which lull-boot.service runs.
type preparedFlags struct {
	on    bool
	limit time.Duration
}

func (f *preparedFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.on, "prepared", false, "look for nothing; wait until what is prepared has been refreshed, as at boot")
	cmd.Flags().DurationVar(&f.limit, "time-limit", 90*time.Second, "with --prepared: how long to wait at the most")
	for _, other := range []string{"cancel", "detach", "wait", "no-wait"} {
		cmd.MarkFlagsMutuallyExclusive("prepared", other)
	}
}

// applyPrepared waits until every prepared refresh that can go on has ended. The agent
// takes them up by itself; what waits for running applications or for a condition,
// or is held, is not waited for. However they end, and if the limit is over first, it is no failure: a
// boot must go on.
func (a *app) applyPrepared(ctx context.Context, o preparedFlags, names []string) error {
	if len(names) > 0 || o.limit <= 0 {
		return problem.New(problem.Usage, "cannot understand this command: --prepared takes no APP, and a --time-limit above 0")
	}
	limited, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	held, titles := map[string]bool{}, map[string]string{}
	f := &follower{until: untilStuck, stuck: func(p bus.RefreshProperties) bool {
		return p.State == "waiting" && (len(p.Waiting) > 0 || len(p.Conditions) > 0 || held[p.Instance])
	}}
	f.show = &boot{progress: a.progress(), titles: titles, tell: a.bootScreens(ctx)}
	out, err := a.followWith(limited, f, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		s, err := ag.snapshot(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range s.packages {
			held[p.Instance] = time.UnixMicro(int64(p.HeldUntil)).After(a.now())
			titles[p.Instance] = p.Title
		}
		resumed, err := a.resumed()
		if err != nil {
			return nil, err
		}
		var paths []dbus.ObjectPath
		for path, r := range s.refreshes {
			if over(r.State) && resumed[r.ID] || !over(r.State) && r.State != "preparing" && !f.stuck(r) {
				paths = append(paths, path)
			}
		}
		slices.Sort(paths)
		return paths, nil
	})
	if late := errors.Is(limited.Err(), context.DeadlineExceeded) && ctx.Err() == nil; late && len(out) > 0 {
		err = nil // each that is not through is named below
	}
	return a.sayApplied(out, err)
}

// resumed are the ids of the refreshes that the agent took up when it started: some
// may have ended before anybody could ask.
func (a *app) resumed() (map[string]bool, error) {
	text, err := os.ReadFile(filepath.Join(either(a.runDir, "/run/lull"), "resumed"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.KindOf(err), "cannot see what the agent took up: %w", err)
	}
	ids := map[string]bool{}
	for _, id := range strings.Fields(string(text)) {
		ids[id] = true
	}
	return ids, nil
}

// sayApplied tells what became of each. A refresh that has failed is told of as an
// error is, and is none.
func (a *app) sayApplied(out []outcome, err error) error {
	doc := struct {
		document
		Refreshes []refreshJSON `json:"refreshes"`
	}{one, []refreshJSON{}}
	for _, o := range out {
		p := o.props
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(p))
		verb, _ := verbOf(p.Kind)
		failed := failure(verb, p)
		switch {
		case a.json:
		case failed != nil:
			a.printError(failed)
		case p.State == "waiting":
			if err := a.say(p.Instance + " waits: it can be refreshed later"); err != nil {
				return err
			}
		default:
			if err := a.say(result(p)); err != nil {
				return err
			}
		}
	}
	if a.json {
		if werr := a.writeJSON(doc); err == nil {
			err = werr
		}
	}
	return err
}

// boot shows progress where people look while a machine starts, besides where it is
// shown otherwise.
type boot struct {
	progress
	titles map[string]string // by instance
	tell   func(string)
	last   string
}

func (b *boot) update(path dbus.ObjectPath, p bus.RefreshProperties) {
	b.progress.update(path, p)
	if p.Instance == "" || over(p.State) {
		return
	}
	text := "Refreshing " + either(b.titles[p.Instance], p.Instance)
	if p.State != "waiting" {
		text += ": " + stepText(p)
	}
	text = oneLine(text)
	if text != b.last {
		b.last = text
		b.tell(text)
	}
}

func (b *boot) close() {
	b.progress.close()
	if b.last != "" {
		b.tell("")
	}
}

// plymouthTime is how long Plymouth may take for a message. It is asked no more once
// it has not taken one.
const plymouthTime = 2 * time.Second

// bootScreens returns what shows a line to systemd, as the status of the unit, and to
// Plymouth where it runs. An empty line ends it.
func (a *app) bootScreens(ctx context.Context) func(string) {
	plymouth := func(args ...string) bool {
		ctx, cancel := context.WithTimeout(ctx, plymouthTime)
		defer cancel()
		return exec.CommandContext(ctx, "plymouth", args...).Run() == nil
	}
	splash, shown := plymouth("--ping"), ""
	return func(text string) {
		if _, err := daemon.SdNotify(false, "STATUS="+text); err != nil {
			fmt.Fprintln(a.stderr, "lull: cannot tell systemd about the progress:", err)
		}
		switch {
		case !splash:
		case text != "":
			splash, shown = plymouth("display-message", "--text="+text), text
		case shown != "":
			splash = plymouth("hide-message", "--text="+shown)
		}
	}
}
