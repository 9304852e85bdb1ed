package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// mostNamed bounds the processes that a message names.
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
	var users, names, rest []string
	for _, p := range ps {
		if p.PID == 0 { // see runs.Process
			rest = append(rest, unnamed(p))
		}
	}
	ps = slices.DeleteFunc(ps, func(p bus.Process) bool { return p.PID == 0 })
	for i, p := range ps {
		n := fmt.Sprint(p.PID)
		if p.Command != "" {
			n += " (" + output.OneLine(p.Command) + ")"
		}
		names = append(names, n)
		if i == len(ps)-1 || ps[i+1].UID != p.UID {
			users = append(users, output.T("PID %[1]s, user %[2]s", output.List(names), output.UserName(p.UID)))
			names = nil
		}
	}
	users = append(users, rest...)
	if more > 0 {
		users = append(users, output.T("and %d more", more))
	}
	return strings.Join(users, "; ")
}

// unnamed is a process without a number: see runs.Process.
func unnamed(p bus.Process) string {
	switch {
	case p.UID == 1<<32-1:
		return output.T("something that cannot be seen from here")
	case p.Command != "":
		return output.T("perhaps a process in groups that cannot be read, user %s", output.UserName(p.UID))
	}
	return output.T("a process of another PID namespace, user %s", output.UserName(p.UID))
}

// verbs are the kinds of refreshes in words: as an imperative, as a participle, and as a
// noun.
var verbs = map[string][3]string{
	"install": {output.Mark("install"), output.Mark("installed"), output.Mark("installation")},
	"refresh": {output.Mark("refresh"), output.Mark("refreshed"), output.Mark("refresh")},
	"revert":  {output.Mark("revert"), output.Mark("reverted"), output.Mark("revert")},
	"remove":  {output.Mark("remove"), output.Mark("removed"), output.Mark("removal")},
}

// nounOf names a kind, as in "the removal of notes".
func nounOf(kind string) string {
	if v, ok := verbs[kind]; ok {
		return output.Marked(v[2])
	}
	return output.Either(kind, output.T("refresh"))
}

func verbOf(kind string) (verb, participle string) {
	v, ok := verbs[kind]
	if !ok {
		v = verbs["refresh"]
	}
	return output.Marked(v[0]), output.Marked(v[1])
}

// busy returns the error of a refresh that waits for running applications. It names them, and
// the next event with its time. Hold is the end and the user of a hold.
func busy(p bus.RefreshProperties, atDeadline, hold string, now time.Time) error {
	verb, done := verbOf(p.Kind)
	if len(p.Waiting) == 0 && len(p.Together) > 0 {
		return output.Error(errkind.Busy, "cannot %s %s: it goes together with %s, which cannot go yet", verb, p.Instance, output.List(p.Together)).
			WithHint("all of them will be %s when none of them is running", done)
	}
	if len(p.Waiting) == 0 && len(p.Conditions) > 0 {
		return output.Error(errkind.Busy, "cannot %s %s now: it waits for %s", verb, p.Instance, conditionText(p.Conditions)).
			WithHint("it will be %s when that is so; `lull refresh %s` does not wait for it", done, p.Instance)
	}
	if len(p.Waiting) == 0 {
		if hold != "" {
			return output.Error(errkind.Held, "cannot %s %s now: it is held %s", verb, p.Instance, hold).
				WithHint("it will be %s then; lull unhold %s ends your own hold", done, p.Instance)
		}
		return output.Error(errkind.Busy, "cannot %s %s now: it is held or still running", verb, p.Instance).
			WithHint("it will be %s as soon as it may be; `lull pending` shows why it waits", done)
	}
	n := len(p.Waiting)
	text := output.N("cannot %[1]s %[2]s: %[3]d process is running: %[4]s", "cannot %[1]s %[2]s: %[3]d processes are running: %[4]s", n,
		verb, p.Instance, n, who(p.Waiting))
	hint := output.N("it will be %[1]s when that process has ended, or %[2]s", "it will be %[1]s when they have ended, or %[2]s", n,
		done, deadlineWords(p.Deadline, atDeadline, now))
	return output.Failed(errkind.Busy, text, hint, nil)
}

// deadlineWords describes the action at the end of the postponement window.
func deadlineWords(deadline uint64, at string, now time.Time) string {
	if deadline == 0 {
		return output.T("when the machine starts again")
	}
	t := output.FromBus(deadline)
	past := !t.After(now)
	switch {
	case at == "side-by-side" && past:
		return output.T("now, beside the one that runs")
	case at == "side-by-side":
		return output.T("beside the one that runs %s (%s)", output.In(t, now), output.Day(t, now))
	case at == "terminate" && past:
		return output.T("now: policy closes it")
	case at == "terminate":
		return output.T("by closing it %s (%s), as policy requires", output.In(t, now), output.Day(t, now))
	}
	end := output.T("when you log out or the machine starts again")
	if past {
		return output.T("%[1]s; its deadline, %[2]s, has passed", end, output.Date(t))
	}
	return output.T("%[1]s; its deadline is %[2]s, %[3]s", end, output.Day(t, now), output.In(t, now))
}

// atDeadlines returns the actions at the end of the windows, by refresh. A failure is
// ignored.
func (ag *agent) atDeadlines(ctx context.Context) map[string]string {
	m := map[string]string{}
	for id, p := range ag.pendingByID(ctx) {
		m[id] = p.AtDeadline
	}
	return m
}

// pendingByID returns the pending refreshes, by refresh. A failure is ignored.
func (ag *agent) pendingByID(ctx context.Context) map[string]bus.PendingRefresh {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	m := map[string]bus.PendingRefresh{}
	pending, err := ag.manager.Pending(ctx)
	if err != nil {
		return m
	}
	for _, p := range pending {
		m[p.ID] = p
	}
	return m
}
