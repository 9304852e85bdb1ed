package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
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
		checks = append(checks, bus.Check{Name: "agent", State: "fail", Seen: agentErr.Error(), Advice: problem.HintOf(agentErr)})
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
		return agentErr
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
		fmt.Fprintf(&b, "%s  %s%s  %s\n", state, name, strings.Repeat(" ", widest-columns(name)), oneLine(c.Seen))
		if c.Advice != "" && c.State != "ok" {
			fmt.Fprintf(&b, "%s→ %s\n", strings.Repeat(" ", 8+widest), oneLine(c.Advice))
		}
	}
	_, err := a.stdout.Write([]byte(b.String()))
	return notWritten(err)
}

func launcherCheck() bus.Check {
	path, err := launcher()
	if err != nil {
		return bus.Check{Name: "lull run", State: "fail", Seen: err.Error(), Advice: problem.HintOf(err)}
	}
	return bus.Check{Name: "lull run", State: "ok", Seen: path}
}
