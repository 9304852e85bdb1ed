package main

import (
	"context"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
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
	cmd.AddCommand(a.systemStageCmd(), a.systemStatusCmd(), a.systemCommitCmd(), a.systemRollbackCmd(), a.systemPrepareImageCmd())
	return cmd
}

func (ag *agent) system() bus.SystemProxy { return bus.NewSystemProxy(ag.conn, bus.AgentPath) }

// decide connects and calls f for a request that may take long, because hooks run in it.
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
					return output.Error(errkind.Usage, "cannot stage an update without a name").WithHint("leave it out to go on where staging has stopped")
				}
			}
			p, err := a.stageSystem(cmd.Context(), update, o)
			if err != nil {
				return err
			}
			if a.JSON {
				return a.WriteJSON(toSystemJSON(p))
			}
			switch p.State {
			case "staged":
				return a.Say(output.T("%s is staged: it takes effect when the machine starts again", systemName(p.Staged)))
			case "idle":
				return a.Say(output.T("%s is committed already: there is nothing to do", systemName(p.Committed)))
			}
			return a.Say(output.T("%[1]s is %[2]s", systemName(output.Either(p.Booted, p.Staged)), output.StateText(p.State)))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&o.Repository, "repository", "", "`name` of the repository, if several have it")
	return cmd
}

// stageSystem follows staging to its end, and returns the state after it. It subscribes
// before it begins, so that it misses no signal.
func (a *app) stageSystem(ctx context.Context, update string, o bus.StageOptions) (p bus.SystemProperties, err error) {
	show := a.Progress()
	defer show.Close()
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
		return p, sent(ctx, output.T("system update"), output.T("`lull system status` shows it"), err)
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
		show.Update(bus.AgentPath, systemProgress(p))
		select {
		case <-ctx.Done():
			return p, output.Error(errkind.Interrupted, "cannot follow the system update any longer: interrupted").
				WithHint("it goes on; `lull system status` shows it, `lull system rollback` gives it up")
		case sig, ok := <-sub.C:
			if !ok {
				return p, output.Error(errkind.Unavailable, "cannot follow the system update any longer: the agent has left the bus").
					WithHint("when it is back, `lull system stage` goes on where it has stopped; see `%s`", a.statusCommand())
			}
			if c, ok := bus.ParseChanged(sig); ok && c.Interface == bus.SystemInterface {
				err = p.Apply(c.Values)
				if err == nil && p.State != "staging" {
					err = read() // the signal may be from before
				}
				if err != nil {
					return p, err
				}
			}
		}
	}
	if followed && p.State == "idle" {
		return p, output.Error(errkind.Interrupted, "cannot stage the update: it was rolled back meanwhile")
	}
	return p, stageFailure(p)
}

// stageFailure returns the error of staging that has ended, or nil.
func stageFailure(p bus.SystemProperties) error {
	if p.State != "interrupted" {
		return nil
	}
	kind := errkind.Failed
	if name, ok := cutPrefix(p.ErrorName, errkind.Prefix); ok {
		kind = errkind.Kind(name)
	}
	text := output.Either(p.ErrorText, output.T("cannot stage %s: it was interrupted", p.Asked))
	return &errkind.Error{Kind: kind, Text: text, Hint: output.Either(p.ErrorHint, output.T("`lull system stage` goes on where it has stopped"))}
}

// systemProgress shows an update of the system in the form of a refresh.
func systemProgress(p bus.SystemProperties) bus.RefreshProperties {
	name := p.Asked
	if p.Staged != "" {
		name = systemName(p.Staged)
	}
	return bus.RefreshProperties{Instance: name, Step: "system-" + p.Step, State: "preparing", BytesDone: p.BytesDone, BytesTotal: p.BytesTotal}
}

func systemName(version string) string {
	if version == "" {
		return output.T("the system that the machine came with")
	}
	return output.T("system %s", version)
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
				if a.JSON {
					return a.WriteJSON(toSystemJSON(p))
				}
				return a.Fields(a.systemFields(p))
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// systemFields describes the state, and the next step.
func (a *app) systemFields(p bus.SystemProperties) [][2]string {
	fields := a.systemStateFields(p)
	if effect := output.Either(p.Booted, p.Committed); p.Running != "" && effect != "" && p.Running != effect {
		fields = append(fields, [2]string{"Running", output.T("%s, since the machine has started", p.Running)})
	}
	return fields
}

func (a *app) systemStateFields(p bus.SystemProperties) [][2]string {
	committed := output.Either(p.Committed, output.T("as the machine came"))
	next := output.Either(p.Staged, p.Asked)
	switch p.State {
	case "booted":
		return [][2]string{
			{"In effect", output.T("%s, not committed yet", p.Booted)},
			{"Before", output.T("%s, kept whole until then", committed)},
			{"To keep it", "lull system commit"},
			{"To go back", "lull system rollback"},
			{"Collection", a.Foreign(p.CollectionRefused)},
		}
	case "staged":
		return [][2]string{
			{"In effect", committed},
			{"Next", output.T("%s, staged: it takes effect when the machine starts again", next)},
			{"Because", a.Foreign(p.ErrorText)},
			{"To drop it", "lull system rollback"},
		}
	case "staging":
		text := output.StepText(systemProgress(p))
		if p.BytesTotal > 0 {
			text += output.T(", %[1]s of %[2]s", output.Size(p.BytesDone), output.Size(p.BytesTotal))
		}
		return [][2]string{{"In effect", committed}, {"Next", next + ": " + text}}
	case "interrupted":
		return [][2]string{
			{"In effect", committed},
			{"Next", output.T("%[1]s, interrupted while %[2]s", next, output.StepText(systemProgress(p)))},
			{"Because", a.Foreign(p.ErrorText)},
			{"Hint", a.Foreign(p.ErrorHint)},
			{"To go on", "lull system stage"},
			{"To drop it", "lull system rollback"},
		}
	}
	return [][2]string{{"In effect", committed}, {"Next", output.T("nothing is staged")}, {"Because", a.Foreign(p.ErrorText)}}
}

// systemText describes a system update in a line, if there is one. A failure is ignored.
func (ag *agent) systemText(ctx context.Context) string {
	p, err := ag.system().Properties(ctx)
	if err != nil || p.State == "idle" {
		return ""
	}
	text := map[string]string{
		"booted": output.T("%s is in effect and not committed, nothing is collected until it is", p.Booted),
		"staged": output.T("%s is staged, it takes effect when the machine starts again", p.Staged),
	}[p.State]
	return output.T("%s; see `lull system status`", output.Either(text, output.Either(p.Staged, p.Asked)+": "+map[string]string{"staging": output.T("being staged"), "interrupted": output.T("staging was interrupted")}[p.State]))
}

func (a *app) systemCommitCmd() *cobra.Command {
	var unattended bool
	cmd := &cobra.Command{
		Use:   "commit",
		Short: "Keep the system that the machine has started with",
		Long: `Keeps the system that the machine has started with, if the health hooks of its base
packages pass. What only the system before it needed may be collected then. If a
health hook fails, the system is rolled back.

With --unattended, as lull-system-commit.service calls it, nobody has looked whether
the machine works. It then keeps a system only if the machine states which system
it has started, and if boot-complete.target requires a unit, so that it has waited
for something.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ag, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			if unattended {
				if err := a.mayCommit(cmd.Context(), ag); err != nil {
					return err
				}
			}
			commit := jobCalls{ag.system().StartCommit, func(ctx context.Context) (bus.JobProperties, error) {
				return bus.JobProperties{}, ag.system().Commit(ctx)
			}}
			if _, err := a.followJob(cmd.Context(), ag, commitText, commit); err != nil {
				return err
			}
			return a.decided(cmd.Context(), ag.system(), func(now bus.SystemProperties) string { return output.T("%s is committed", systemName(now.Committed)) })
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&unattended, "unattended", false, "only if the machine itself shows that it works")
	return cmd
}

// mayCommit reports why a booted system cannot be committed without a person's decision.
func (a *app) mayCommit(ctx context.Context, ag *agent) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	p, err := ag.system().Properties(ctx)
	if err != nil || p.State != "booted" {
		return err
	}
	if p.Running == "" {
		return output.Error(errkind.Busy, "cannot commit system %s unattended: the machine does not state which system it has started", p.Booted).
			WithHint("lull-system.yaml(5) describes how; `lull system commit` keeps it by hand")
	}
	units, err := requiredUnits(ctx)
	if err == nil && len(units) == 0 {
		err = output.Error(errkind.Busy, "cannot commit system %s unattended: boot-complete.target requires no unit, so that nothing shows that the machine works", p.Booted).
			WithHint("`systemctl add-requires boot-complete.target UNIT...` in the image; `lull system commit` keeps it by hand")
	}
	return err
}

// requiredUnits lists the units that the machine's boot-complete.target requires.
func requiredUnits(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=Requires", "--value", "boot-complete.target").Output()
	if err != nil {
		return nil, output.Error(errkind.Unavailable, "cannot determine what boot-complete.target requires: %w", err)
	}
	units := strings.Fields(string(out))
	return slices.DeleteFunc(units, func(u string) bool { return u == "sysinit.target" }), nil // its own file has that
}

func (a *app) systemRollbackCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rollback",
		Short: "Give up what is staged, or go back to the system before",
		Long: `Drops the update that is staged or being staged. If the machine has started with it
already, the system before it is put back into effect. What is committed stays: where
there is nothing to give up, nothing changes.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.decide(cmd.Context(), func(ctx context.Context, s bus.SystemProxy) error {
				before, err := s.Properties(ctx)
				if err == nil {
					err = sent(ctx, output.T("rollback"), output.T("`lull system status` shows it"), s.Rollback(ctx))
				}
				nothing := errkind.Is(err, errkind.NotFound)
				if err != nil && !nothing {
					return err
				}
				return a.decided(ctx, s, func(now bus.SystemProperties) string {
					if nothing {
						return output.T("nothing is staged, and nothing waits for a commit; %s stays in effect", systemName(now.Committed))
					}
					if before.State == "booted" {
						return output.T("%[1]s is in effect again, in place of %[2]s", systemName(now.Committed), systemName(before.Booted))
					}
					return output.T("dropped %[1]s; %[2]s stays in effect", output.Either(before.Asked, output.T("the update")), systemName(now.Committed))
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// decided reports the state after a decision.
func (a *app) decided(ctx context.Context, s bus.SystemProxy, text func(bus.SystemProperties) string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	now, err := s.Properties(ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.WriteJSON(toSystemJSON(now))
	}
	return a.Say(text(now))
}

// systemJSON is how things stand, in JSON.
type systemJSON struct {
	output.Document
	State             string     `json:"state"`
	Step              string     `json:"step,omitempty"`
	Asked             string     `json:"asked,omitempty"`
	Running           string     `json:"running,omitempty"` // version that the machine has started with
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
		Document: output.One, State: p.State, Step: p.Step, Asked: p.Asked, Running: p.Running, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal,
		Committed: set(p.Committed, p.CommittedHash), Booted: set(p.Booted, p.BootedHash), Staged: set(p.Staged, p.StagedHash),
		CollectionRefused: p.CollectionRefused,
	}
	if p.ErrorText != "" {
		v.Error = &errorJSON{p.ErrorName, p.ErrorText, p.ErrorHint}
	}
	return v
}
