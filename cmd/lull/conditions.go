package main

import (
	"strings"
	"time"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// conditionWords describe the conditions that policy can require, in the order of the output.
var conditionWords = []struct{ name, text string }{
	{"mains", output.Mark("mains power")}, {"unmetered", output.Mark("an unmetered network")},
	{"idle", output.Mark("an idle computer")}, {"window", output.Mark("a maintenance window")},
}

// conditionText names the unmet conditions, and the present state.
func conditionText(unmet map[string]string) string {
	var texts []string
	for _, c := range conditionWords {
		if seen, ok := unmet[c.name]; ok {
			text := output.Marked(c.text)
			if seen != "" {
				text += " (" + output.OneLine(seen) + ")"
			}
			texts = append(texts, text)
		}
	}
	return output.List(texts)
}

// waitsShort describes the wait of a refresh, for a line among others.
func waitsShort(r bus.RefreshProperties) string {
	names := map[string]string{}
	for name := range r.Conditions {
		names[name] = ""
	}
	return output.Either(waitsForThese(names, r.Waiting), elsewhere(r))
}

// waitsFor describes all causes of a refresh's wait.
func waitsFor(r bus.RefreshProperties) string {
	return output.Either(waitsForThese(r.Conditions, r.Waiting), elsewhere(r))
}

func waitsForThese(unmet map[string]string, processes []bus.Process) string {
	text := conditionText(unmet)
	if named := who(processes); named != "" && text != "" {
		return output.T("%[1]s, and %[2]s", text, named)
	} else if named != "" {
		return named
	}
	return text
}

// downloadText describes the wait for a large download that is announced first.
func downloadText(size uint64) string { return output.T("its download of %s", output.Size(size)) }

// beginsText describes when a large download begins, and how to begin it at once.
func beginsText(instance string, begins uint64, now time.Time) string {
	return output.T("%[1]s; lull refresh %[2]s begins it now", output.In(output.FromBus(begins), now), instance)
}

// latestWords describes the action at the end of a refresh's waiting time. A condition alone
// does not delay it further.
func latestWords(step string, unmet map[string]string, running int, deadline uint64, at string, now time.Time) string {
	if len(unmet) == 0 || running > 0 && step != "fetch" || deadline == 0 {
		return deadlineWords(deadline, at, now)
	}
	t := output.FromBus(deadline)
	if step == "fetch" {
		return output.T("downloaded all the same %[1]s, %[2]s", output.Day(t, now), output.In(t, now))
	}
	return output.T("refreshed all the same %[1]s, %[2]s", output.Day(t, now), output.In(t, now))
}

// machineText describes the state of the machine that policy can require, or returns "" if it
// is unknown.
func machineText(m bus.ManagerProperties) string {
	words := map[string]string{"mains": output.T("on mains power"), "battery": output.T("on battery"), "unmetered": output.T("network not metered"), "metered": output.T("network metered"),
		"in-use": output.T("in use"), "idle": output.T("not in use")}
	var known []string
	for _, v := range []string{m.Power, m.Network, m.Use} {
		if w := words[v]; w != "" {
			known = append(known, w)
		}
	}
	return strings.Join(known, ", ")
}
