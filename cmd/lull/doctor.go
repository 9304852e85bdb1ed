package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/policy"
)

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check that everything is as it should be",
		Long: `Checks the system and says what to do about what is wrong. Works also when the
agent does not.`,
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
	agentErr := a.ask(ctx, func(ctx context.Context, ag *agent) error {
		theirs, err := ag.manager.Doctor(ctx)
		if err == nil {
			checks = append(checks, bus.Check{Name: "agent", State: "ok", Seen: "answers"})
			checks = append(checks, theirs...)
		}
		return err
	})
	if agentErr != nil {
		advice := "systemctl status lulld says why; systemctl start lulld starts it"
		if a.user {
			advice = "systemctl --user status lulld says why; systemctl --user enable --now lulld starts it"
		}
		checks = append(checks, bus.Check{Name: "agent", State: "fail", Seen: agentErr.Error(), Advice: advice}, a.policyFiles())
	}
	// The agent looks at its own launcher; this command may find another one, or none.
	if own := launcherCheck(); own.State != "ok" || agentErr != nil {
		checks = append([]bus.Check{own}, checks...)
	}
	failed := 0
	doc := struct {
		document
		Checks []checkJSON `json:"checks"`
	}{one, []checkJSON{}}
	widest := 0
	for _, c := range checks {
		doc.Checks = append(doc.Checks, checkJSON(c))
		widest = max(widest, columns(oneLine(c.Name)))
		if c.State == "fail" {
			failed++
		}
	}
	var err error
	if a.json {
		err = a.writeJSON(doc)
	} else {
		err = a.checks(checks, widest)
	}
	switch {
	case err != nil:
		return err
	case agentErr != nil:
		return problem.New(problem.KindOf(agentErr), "cannot call this system healthy: the agent does not answer")
	case failed > 0:
		return problem.New(problem.Failed, "cannot call this system healthy: %s failed", count(failed, "check has", "checks have"))
	}
	return nil
}

func (a *app) checks(checks []bus.Check, widest int) error {
	color := map[string]string{"ok": "green", "warn": "yellow", "fail": "red"}
	var b strings.Builder
	for _, c := range checks {
		name := oneLine(c.Name)
		state := c.State + strings.Repeat(" ", max(0, 4-len(c.State)))
		if col, ok := color[c.State]; ok {
			state = a.paint(col, state)
		}
		before := state + "  " + name + strings.Repeat(" ", widest-columns(name)) + "  "
		for _, part := range wrap(oneLine(c.Seen), a.beside(widest+8)) {
			b.WriteString(before + part + "\n")
			before = strings.Repeat(" ", widest+8)
		}
		if c.Advice != "" && c.State != "ok" {
			before = strings.Repeat(" ", widest+8) + "→ "
			for _, part := range wrap(oneLine(c.Advice), a.beside(widest+10)) {
				b.WriteString(before + part + "\n")
				before = strings.Repeat(" ", widest+10)
			}
		}
	}
	_, err := a.stdout.Write([]byte(b.String()))
	return notWritten(err)
}

// policyFiles looks at what keeps an agent from starting most often.
func (a *app) policyFiles() bus.Check {
	dir := either(a.config, usualConfig)
	if _, err := policy.Load(filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "policy.d")); err != nil {
		return bus.Check{Name: "policy", State: "fail", Seen: err.Error(), Advice: "lulld does not start with it; " + problem.HintOf(err)}
	}
	return bus.Check{Name: "policy", State: "ok", Seen: "in order in " + dir}
}

func launcherCheck() bus.Check {
	path, err := launcher()
	if err != nil {
		return bus.Check{Name: "lull run", State: "fail", Seen: err.Error(), Advice: problem.HintOf(err)}
	}
	return bus.Check{Name: "lull run", State: "ok", Seen: path}
}
