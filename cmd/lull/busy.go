package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// mostNamed is how many processes a message names.
const mostNamed = 6

// who names processes by user: "PID 12 (notes) and 13 (helper), user alice;
// PID 99 (notes), user bob".
func who(processes []bus.Process) string {
	ps := slices.Clone(processes)
	slices.SortStableFunc(ps, func(p, q bus.Process) int { return cmp.Compare(p.UID, q.UID) })
	more := 0
	if len(ps) > mostNamed {
		more = len(ps) - mostNamed
		ps = ps[:mostNamed]
	}
	var users, names []string
	for i, p := range ps {
		n := fmt.Sprint(p.PID)
		if p.Command != "" {
			n += " (" + oneLine(p.Command) + ")"
		}
		names = append(names, n)
		if i == len(ps)-1 || ps[i+1].UID != p.UID {
			users = append(users, "PID "+list(names)+", user "+userName(p.UID))
			names = nil
		}
	}
	if more > 0 {
		users = append(users, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(users, "; ")
}

// verbs are the kinds of refreshes in words: what to do, and what will be done.
var verbs = map[string][2]string{
	"install": {"install", "installed"},
	"refresh": {"refresh", "refreshed"},
	"revert":  {"revert", "reverted"},
	"remove":  {"remove", "removed"},
}

func verbOf(kind string) (verb, participle string) {
	v, ok := verbs[kind]
	if !ok {
		v = verbs["refresh"]
	}
	return v[0], v[1]
}

// busy is the error of a refresh that waits for running applications. It says
// who they are and what will happen when.
func busy(p bus.RefreshProperties, atDeadline string, now time.Time) error {
	verb, done := verbOf(p.Kind)
	if len(p.Waiting) == 0 && len(p.Together) > 0 {
		return problem.New(problem.Busy, "cannot %s %s: it goes together with %s, which cannot go yet", verb, p.Instance, list(p.Together)).
			WithHint("all of them will be %s when none of them is running", done)
	}
	if len(p.Waiting) == 0 && len(p.Conditions) > 0 {
		return problem.New(problem.Busy, "cannot %s %s now: it waits for %s", verb, p.Instance, conditionText(p.Conditions)).
			WithHint("it will be %s when that is so; `lull refresh %s` does not wait for it", done, p.Instance)
	}
	if len(p.Waiting) == 0 {
		return problem.New(problem.Busy, "cannot %s %s now: it is held or still running", verb, p.Instance).
			WithHint("it will be %s as soon as it may be; `lull pending` shows why it waits", done)
	}
	are := "processes are"
	if len(p.Waiting) == 1 {
		are = "process is"
	}
	hint := fmt.Sprintf("it will be %s when %s", done, closes(len(p.Waiting)))
	if end := deadlineWords(p.Deadline, atDeadline, now); end != "" {
		hint += ", or " + end
	}
	return problem.New(problem.Busy, "cannot %s %s: %d %s running: %s", verb, p.Instance, len(p.Waiting), are, who(p.Waiting)).
		WithHint("%s", hint)
}

func closes(n int) string {
	if n == 1 {
		return "that process has ended"
	}
	return "they have ended"
}

// deadlineWords says what happens at the end of the postponement window.
func deadlineWords(deadline uint64, at string, now time.Time) string {
	if deadline == 0 {
		return "when the machine starts again"
	}
	t := fromBus(deadline)
	past := !t.After(now)
	switch {
	case at == "side-by-side" && past:
		return "now, beside the one that runs"
	case at == "side-by-side":
		return fmt.Sprintf("beside the one that runs %s (%s)", in(t, now), day(t, now))
	case at == "terminate" && past:
		return "now: the administrator lets it be closed"
	case at == "terminate":
		return fmt.Sprintf("by closing it %s (%s), as the administrator wants", in(t, now), day(t, now))
	}
	end := "when you log out or the machine starts again"
	if past {
		return end + "; its deadline, " + t.Local().Format("2 January") + ", has passed"
	}
	return end + "; its deadline is " + day(t, now) + ", " + in(t, now)
}

// atDeadlines asks what happens at the end of the windows, by refresh. It is
// good to know, not needed.
func (ag *agent) atDeadlines(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	m := map[string]string{}
	pending, err := ag.manager.Pending(ctx)
	if err != nil {
		return m
	}
	for _, p := range pending {
		m[p.ID] = p.AtDeadline
	}
	return m
}
