package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/policy"
)

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check the system for problems",
		Long: `Checks the system, and shows what to do about each problem. It also works while
the agent does not.`,
		Args:              args(0, 0),
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

type checkJSON struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Seen   string `json:"seen"`
	Advice string `json:"advice,omitempty"`
}

func (a *app) doctor(ctx context.Context) error {
	var checks []bus.Check
	ag, agentErr := a.dial(ctx)
	began := time.Now()
	var theirs []bus.Check
	if agentErr == nil && !mute(ctx, ag) {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		theirs, agentErr = ag.manager.Doctor(asking)
		cancel()
	} else if agentErr == nil {
		agentErr = output.Error(errkind.Unavailable, "cannot reach the agent: it does not answer")
	}
	if ctx.Err() != nil {
		return output.Error(errkind.Interrupted, "cannot wait for the agent any longer: interrupted")
	}
	own, state := a.agentCheck(ctx, ag, time.Since(began), agentErr)
	checks = append(append(checks, own), theirs...)
	if agentErr != nil {
		checks = append(checks, a.policyFiles())
	}
	// The agent checks its own launcher. This command may find another one, or none.
	if own := launcherCheck(); own.State != "ok" || agentErr != nil {
		checks = append([]bus.Check{own}, checks...)
	}
	checks = append(checks, a.dataCheck(ctx))
	failed := 0
	doc := doctorJSON{output.One, []checkJSON{}}
	widest := 0
	for _, c := range checks {
		doc.Checks = append(doc.Checks, checkJSON(c))
		widest = max(widest, output.Columns(checkName(c.Name)))
		if c.State == "fail" {
			failed++
		}
	}
	var err error
	if a.JSON {
		err = a.WriteJSON(doc)
	} else {
		err = a.checks(checks, widest)
	}
	switch {
	case err != nil:
		return err
	case agentErr != nil:
		return output.Error(errkind.KindOf(agentErr), "cannot call this system healthy: the agent %s", output.Marked(state))
	case failed > 0:
		return output.Error(errkind.Failed, "cannot call this system healthy: %s failed", output.Count(failed, "check has", "checks have"))
	}
	return nil
}

// checkNames are the names of the agent's checks.
var checkNames = []string{
	output.Mark("agent"), output.Mark("bus"), output.Mark("cgroups"), output.Mark("clock"), output.Mark("conditions"), output.Mark("disk"), output.Mark("helper"), output.Mark("installed"),
	output.Mark("launcher"), output.Mark("logind"), output.Mark("markers"), output.Mark("metrics"), output.Mark("place"), output.Mark("policy"), output.Mark("polkit"), output.Mark("processes"),
	output.Mark("refreshes"), output.Mark("repositories"), output.Mark("reserve"), output.Mark("root"), output.Mark("space"), output.Mark("state"), output.Mark("services"), output.Mark("system list"), output.Mark("system packages"), output.Mark("tracker"),
	output.Mark("vacancy"),
}

// checkName returns the name of a check in the language.
func checkName(name string) string {
	if slices.Contains(checkNames, name) {
		name = output.Marked(name)
	}
	return output.OneLine(name)
}

func (a *app) checks(checks []bus.Check, widest int) error {
	color := map[string]string{"ok": "green", "warn": "yellow", "fail": "red"}
	states := 4
	for _, c := range checks {
		states = max(states, output.Columns(output.OneLine(output.StateText(c.State))))
	}
	beside := states + widest + 4
	var b strings.Builder
	for _, c := range checks {
		name := checkName(c.Name)
		state := output.OneLine(output.StateText(c.State))
		state += strings.Repeat(" ", max(0, states-output.Columns(state)))
		if col, ok := color[c.State]; ok {
			state = a.Paint(col, state)
		}
		before := state + "  " + name + strings.Repeat(" ", widest-output.Columns(name)) + "  "
		for _, part := range output.Wrap(output.OneLine(a.Foreign(c.Seen)), a.Beside(beside)) {
			b.WriteString(before + part + "\n")
			before = strings.Repeat(" ", beside)
		}
		if c.Advice != "" && c.State != "ok" {
			before = strings.Repeat(" ", beside) + "→ "
			for _, part := range output.Wrap(output.OneLine(a.Foreign(c.Advice)), a.Beside(beside+2)) {
				b.WriteString(before + part + "\n")
				before = strings.Repeat(" ", beside+2)
			}
		}
	}
	_, err := a.Stdout.Write([]byte(a.Shown(b.String())))
	return output.NotWritten(err)
}

// policyFiles checks the most frequent obstacle to the start of an agent.
func (a *app) policyFiles() bus.Check {
	dir := a.configDir()
	if _, err := policy.Load(filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "policy.d")); err != nil {
		return bus.Check{Name: "policy", State: "fail", Seen: err.Error(), Advice: output.T("lulld does not start with it; %s", errkind.HintOf(err))}
	}
	return bus.Check{Name: "policy", State: "ok", Seen: output.T("valid, in %s", dir)}
}

func launcherCheck() bus.Check {
	path, err := launcher()
	if err != nil {
		return bus.Check{Name: "lull run", State: "fail", Seen: err.Error(), Advice: errkind.HintOf(err)}
	}
	return bus.Check{Name: "lull run", State: "ok", Seen: path}
}

// doctorJSON is what `lull doctor` writes.
type doctorJSON struct {
	output.Document
	Checks []checkJSON `json:"checks"`
}
