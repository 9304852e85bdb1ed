package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

func (a *app) systemCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "system",
		Short: "Update the system itself, as a set of packages",
		Long: `Updates the system itself, as a set of packages that change together.

An update is staged while the machine goes on with what it has, takes effect when
the machine starts again, and then is committed, if it works, or rolled back.
Until that is decided nothing is collected, so that both systems are whole.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.systemStageCmd(), a.systemStatusCmd(), a.systemCommitCmd(), a.systemRollbackCmd())
	return cmd
}

func (ag *agent) system() bus.SystemProxy { return bus.NewSystemProxy(ag.conn, bus.AgentPath) }

// decide connects and has f do something that may take long: hooks run in it.
func (a *app) decide(ctx context.Context, f func(context.Context, bus.SystemProxy) error) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	return f(ctx, ag.system())
}

func (a *app) systemStageCmd() *cobra.Command {
	var o bus.StageOptions
	cmd := &cobra.Command{
		Use:   "stage [UPDATE]",
		Short: "Download an update, to take effect when the machine starts again",
		Long: `Downloads an update of the system and whatever it needs. What was interrupted goes
on where it has stopped, when the same update is staged again or none is named.
Another update takes the place of the one that was staged.

Disk space: first there is room made for what installs the update (its images),
and when that is installed it goes, to make room for the next system.`,
		Example: `  lull system stage org.example.os
  lull system stage org.example.os@beta      from another channel
  lull system stage                          go on where it has stopped`,
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			update := ""
			if len(words) > 0 {
				if update = words[0]; update == "" {
					return problem.New(problem.Usage, "cannot stage an update without a name").WithHint("leave it out to go on where staging has stopped")
				}
			}
			p, err := a.stageSystem(cmd.Context(), update, o)
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(toSystemJSON(p))
			}
			switch p.State {
			case "staged":
				return a.say(systemName(p.Staged) + " is staged: it takes effect when the machine starts again")
			case "idle":
				return a.say(systemName(p.Committed) + " is committed already: there is nothing to do")
			}
			return a.say(systemName(either(p.Booted, p.Staged)) + " is " + p.State)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&o.Repository, "repository", "", "`name` of the repository, if several have it")
	return cmd
}

// stageSystem follows staging to its end, and returns how things stand then. It
// listens before it begins, so that nothing is missed.
func (a *app) stageSystem(ctx context.Context, update string, o bus.StageOptions) (p bus.SystemProperties, err error) {
	show := a.progress()
	defer show.close()
	ag, err := a.dial(ctx)
	if err != nil {
		return p, err
	}
	looking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sub, err := bus.Subscribe(looking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return p, err
	}
	defer sub.Close()
	if err := ag.system().Stage(ctx, update, o); err != nil {
		return p, err
	}
	read := func() error {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		p, err = ag.system().Properties(asking)
		return err
	}
	if err := read(); err != nil {
		return p, err
	}
	followed := p.State == "staging"
	for p.State == "staging" {
		show.update(bus.AgentPath, systemProgress(p))
		select {
		case <-ctx.Done():
			return p, problem.New(problem.Interrupted, "cannot follow the system update any longer: interrupted").
				WithHint("it goes on; `lull system status` shows it, `lull system rollback` gives it up")
		case sig, ok := <-sub.C:
			if !ok {
				return p, problem.New(problem.Unavailable, "cannot follow the system update any longer: the agent has left the bus").
					WithHint("when it is back, `lull system stage` goes on where it has stopped; see `systemctl status lulld`")
			}
			if c, ok := bus.ParseChanged(sig); ok && c.Interface == bus.SystemInterface {
				err = p.Apply(c.Values)
				if err == nil && p.State != "staging" {
					err = read() // the signal may be of before
				}
				if err != nil {
					return p, err
				}
			}
		}
	}
	if followed && p.State == "idle" {
		return p, problem.New(problem.Interrupted, "cannot stage the update: it was rolled back meanwhile")
	}
	return p, stageFailure(p)
}

// stageFailure is the error with which staging has ended, or nil.
func stageFailure(p bus.SystemProperties) error {
	if p.State != "interrupted" {
		return nil
	}
	kind := problem.Failed
	if name, ok := cutPrefix(p.ErrorName, problem.Prefix); ok {
		kind = problem.Kind(name)
	}
	text := either(p.ErrorText, "cannot stage "+p.Asked+": it was interrupted")
	return &problem.Error{Kind: kind, Text: text, Hint: either(p.ErrorHint, "`lull system stage` goes on where it has stopped")}
}

// systemProgress shows an update of the system as if it were a refresh.
func systemProgress(p bus.SystemProperties) bus.RefreshProperties {
	name := p.Asked
	if p.Staged != "" {
		name = systemName(p.Staged)
	}
	return bus.RefreshProperties{Instance: name, Step: "system-" + p.Step, State: "preparing", BytesDone: p.BytesDone, BytesTotal: p.BytesTotal}
}

func systemName(version string) string {
	if version == "" {
		return "the system that the machine came with"
	}
	return "system " + version
}

func (a *app) systemStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which system is in effect, and which is on its way",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				p, err := ag.system().Properties(ctx)
				if err != nil {
					return err
				}
				if a.json {
					return a.writeJSON(toSystemJSON(p))
				}
				return a.fields(systemFields(p))
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// systemFields say how things stand, and what to do next.
func systemFields(p bus.SystemProperties) [][2]string {
	committed := either(p.Committed, "as the machine came")
	next := either(p.Staged, p.Asked)
	switch p.State {
	case "booted":
		return [][2]string{
			{"In effect", p.Booted + ", not committed yet"},
			{"Before", committed + ", kept whole until then"},
			{"To keep it", "lull system commit"},
			{"To go back", "lull system rollback"},
			{"Collection", p.CollectionRefused},
		}
	case "staged":
		return [][2]string{
			{"In effect", committed},
			{"Next", next + ", staged: it takes effect when the machine starts again"},
			{"To drop it", "lull system rollback"},
		}
	case "staging":
		text := stepText(systemProgress(p))
		if p.BytesTotal > 0 {
			text += ", " + size(p.BytesDone) + " of " + size(p.BytesTotal)
		}
		return [][2]string{{"In effect", committed}, {"Next", next + ": " + text}}
	case "interrupted":
		return [][2]string{
			{"In effect", committed},
			{"Next", next + ", interrupted while " + stepText(systemProgress(p))},
			{"Because", p.ErrorText},
			{"Hint", p.ErrorHint},
			{"To go on", "lull system stage"},
			{"To drop it", "lull system rollback"},
		}
	}
	return [][2]string{{"In effect", committed}, {"Next", "nothing is staged"}, {"Because", p.ErrorText}}
}

// systemText says in a line what there is to know of a system update, if there is
// one. It is good to know, not needed.
func (ag *agent) systemText(ctx context.Context) string {
	p, err := ag.system().Properties(ctx)
	if err != nil || p.State == "idle" {
		return ""
	}
	text := map[string]string{
		"booted": p.Booted + " is in effect and not committed, nothing is collected until it is",
		"staged": p.Staged + " is staged, it takes effect when the machine starts again",
	}[p.State]
	return either(text, either(p.Staged, p.Asked)+": "+map[string]string{"staging": "being staged", "interrupted": "staging was interrupted"}[p.State]) + "; see `lull system status`"
}

func (a *app) systemCommitCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "commit",
		Short: "Keep the system that the machine has started with",
		Long: `Keeps the system that the machine has started with, if the health hooks of its base
packages pass. What only the system before it needed may be collected then.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.decide(cmd.Context(), func(ctx context.Context, s bus.SystemProxy) error {
				if err := s.Commit(ctx); err != nil {
					return err
				}
				return a.decided(ctx, s, func(now bus.SystemProperties) string { return systemName(now.Committed) + " is committed" })
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (a *app) systemRollbackCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rollback",
		Short: "Give up what is staged, or go back to the system before",
		Long: `Drops the update that is staged or being staged. If the machine has started with it
already, the system before it is put back into effect. What is committed stays.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.decide(cmd.Context(), func(ctx context.Context, s bus.SystemProxy) error {
				before, err := s.Properties(ctx)
				if err == nil {
					err = s.Rollback(ctx)
				}
				if err != nil {
					return err
				}
				return a.decided(ctx, s, func(now bus.SystemProperties) string {
					if before.State == "booted" {
						return systemName(now.Committed) + " is in effect again, in place of " + systemName(before.Booted)
					}
					return "dropped " + either(before.Asked, "the update") + "; " + systemName(now.Committed) + " stays in effect"
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// decided says how things stand after a decision.
func (a *app) decided(ctx context.Context, s bus.SystemProxy, text func(bus.SystemProperties) string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	now, err := s.Properties(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(toSystemJSON(now))
	}
	return a.say(text(now))
}

// systemJSON is how things stand, in JSON.
type systemJSON struct {
	document
	State             string     `json:"state"`
	Step              string     `json:"step,omitempty"`
	Asked             string     `json:"asked,omitempty"`
	Committed         *setJSON   `json:"committed"`
	Booted            *setJSON   `json:"booted"`
	Staged            *setJSON   `json:"staged"`
	BytesDone         uint64     `json:"bytes-done"`
	BytesTotal        uint64     `json:"bytes-total"`
	CollectionRefused string     `json:"collection-refused,omitempty"`
	Error             *errorJSON `json:"error,omitempty"`
}

type setJSON struct {
	Version string `json:"version"`
	Hash    string `json:"hash"` // of the update that brought it
}

func toSystemJSON(p bus.SystemProperties) systemJSON {
	set := func(version, hash string) *setJSON {
		if hash == "" {
			return nil
		}
		return &setJSON{version, hash}
	}
	v := systemJSON{
		document: one, State: p.State, Step: p.Step, Asked: p.Asked, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal,
		Committed: set(p.Committed, p.CommittedHash), Booted: set(p.Booted, p.BootedHash), Staged: set(p.Staged, p.StagedHash),
		CollectionRefused: p.CollectionRefused,
	}
	if p.ErrorText != "" {
		v.Error = &errorJSON{p.ErrorName, p.ErrorText, p.ErrorHint}
	}
	return v
}
