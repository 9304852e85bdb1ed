package main

import (
	"context"
	"errors"
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

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// preparedFlags has the flags of `lull refresh --prepared`, which lull-boot.service runs.
type preparedFlags struct {
	on    bool
	limit time.Duration
}

func (f *preparedFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.on, "prepared", false, "check for nothing; wait until the prepared refreshes are applied, as at boot")
	cmd.Flags().DurationVar(&f.limit, "time-limit", 90*time.Second, "with --prepared: the longest `time` to wait")
	cmd.Flags().Lookup("time-limit").DefValue = "90s" // the form that people write
	for _, other := range []string{"cancel", "detach", "wait", "no-wait"} {
		cmd.MarkFlagsMutuallyExclusive("prepared", other)
	}
}

// applyPrepared waits until every prepared refresh that can continue has ended. The agent
// resumes them by itself. It does not wait for refreshes that wait for running applications
// or for a condition, or are held. No result, not even the expiry of the limit, is a failure:
// a boot must go on.
func (a *app) applyPrepared(ctx context.Context, o preparedFlags, names []string) error {
	if len(names) > 0 || o.limit <= 0 {
		return output.Error(errkind.Usage, "cannot understand this command: --prepared takes no APP, and a --time-limit above 0")
	}
	limited, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	held, titles := map[string]bool{}, map[string]string{}
	f := &follower{until: untilStuck, stuck: func(p bus.RefreshProperties) bool {
		return p.State == "waiting" && (len(p.Waiting) > 0 || len(p.Conditions) > 0 || held[p.Instance])
	}}
	f.show = &boot{Progress: a.Progress(), titles: titles, tell: a.bootScreens(ctx)}
	out, err := a.followWith(limited, f, func(ctx context.Context, ag *agent) ([]dbus.ObjectPath, error) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		s, err := ag.snapshot(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range s.packages {
			held[p.Instance] = time.UnixMicro(int64(p.HeldUntil)).After(a.Now())
			titles[p.Instance] = p.Title
		}
		resumed, err := a.resumed()
		if err != nil {
			return nil, err
		}
		var paths []dbus.ObjectPath
		for path, r := range s.refreshes {
			if output.Over(r.State) && resumed[r.ID] || !output.Over(r.State) && r.State != "preparing" && !f.stuck(r) {
				paths = append(paths, path)
			}
		}
		slices.Sort(paths)
		return paths, nil
	})
	if late := errors.Is(limited.Err(), context.DeadlineExceeded) && ctx.Err() == nil; late && len(out) > 0 {
		err = nil // each unfinished one is named below
	}
	return a.sayApplied(out, err)
}

// resumed returns the ids of the refreshes that the agent resumed when it started: some may
// have ended before the first read.
func (a *app) resumed() (map[string]bool, error) {
	text, err := os.ReadFile(filepath.Join(output.Either(a.runDir, "/run/lull"), "resumed"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, output.Error(errkind.KindOf(err), "cannot see what the agent took up: %w", err)
	}
	ids := map[string]bool{}
	for _, id := range strings.Fields(string(text)) {
		ids[id] = true
	}
	return ids, nil
}

// sayApplied reports the result of each. A failed refresh is printed like an error, and is
// none.
func (a *app) sayApplied(out []outcome, err error) error {
	doc := refreshesJSON{output.One, []refreshJSON{}}
	for _, o := range out {
		p := o.props
		doc.Refreshes = append(doc.Refreshes, toRefreshJSON(p))
		verb, _ := verbOf(p.Kind)
		failed := failure(verb, p)
		switch {
		case a.JSON:
		case failed != nil:
			a.PrintError(failed)
		case p.State == "waiting":
			if err := a.Say(output.T("%s waits: it can be refreshed later", p.Instance)); err != nil {
				return err
			}
		default:
			if err := a.Say(result(p)); err != nil {
				return err
			}
		}
	}
	if a.JSON {
		if werr := a.WriteJSON(doc); err == nil {
			err = werr
		}
	}
	return err
}

// boot shows progress on the screens of a starting machine, in addition to the usual output.
type boot struct {
	output.Progress
	titles map[string]string // by instance
	tell   func(string)
	last   string
}

func (b *boot) Update(path dbus.ObjectPath, p bus.RefreshProperties) {
	b.Progress.Update(path, p)
	if p.Instance == "" || output.Over(p.State) {
		return
	}
	text := output.T("Refreshing %s", output.Either(b.titles[p.Instance], p.Instance))
	if p.State != "waiting" {
		text += ": " + output.StepText(p)
	}
	text = output.OneLine(text)
	if text != b.last {
		b.last = text
		b.tell(text)
	}
}

func (b *boot) Close() {
	b.Progress.Close()
	if b.last != "" {
		b.tell("")
	}
}

// plymouthTime bounds Plymouth's reply to a message. After the first failure Plymouth gets no
// more messages.
const plymouthTime = 2 * time.Second

// bootScreens returns a function that sends a line to systemd, as the status of the unit, and
// to Plymouth if it runs. An empty line ends it.
func (a *app) bootScreens(ctx context.Context) func(string) {
	plymouth := func(args ...string) bool {
		ctx, cancel := context.WithTimeout(ctx, plymouthTime)
		defer cancel()
		return exec.CommandContext(ctx, "plymouth", args...).Run() == nil
	}
	splash, shown := plymouth("--ping"), ""
	return func(text string) {
		text = output.OneLine(text)
		if _, err := daemon.SdNotify(false, "STATUS="+text); err != nil {
			a.Warn(output.T("cannot report the progress to systemd: %s", err.Error()), "")
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
