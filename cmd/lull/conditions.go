package main

import (
	"strings"
	"time"

	bus "github.com/lull/lull/dbus"
)

// conditionWords say what policy can require, in the order in which it is shown.
var conditionWords = [][2]string{
	{"mains", "mains power"}, {"unmetered", "an unmetered network"},
	{"idle", "nobody to be at work"}, {"window", "a maintenance window"},
}

// conditionText says which conditions are waited for, and what is so instead.
func conditionText(unmet map[string]string) string {
	var texts []string
	for _, c := range conditionWords {
		if seen, ok := unmet[c[0]]; ok {
			text := c[1]
			if seen != "" {
				text += " (" + oneLine(seen) + ")"
			}
			texts = append(texts, text)
		}
	}
	return list(texts)
}

// waitsShort says what a refresh waits for, for a line among others.
func waitsShort(r bus.RefreshProperties) string {
	names := map[string]string{}
	for name := range r.Conditions {
		names[name] = ""
	}
	return either(waitsForThese(names, r.Waiting), elsewhere(r))
}

// waitsFor says all that a refresh waits for.
func waitsFor(r bus.RefreshProperties) string {
	return either(waitsForThese(r.Conditions, r.Waiting), elsewhere(r))
}

func waitsForThese(unmet map[string]string, processes []bus.Process) string {
	text := conditionText(unmet)
	if named := who(processes); named != "" && text != "" {
		return text + ", and " + named
	} else if named != "" {
		return named
	}
	return text
}

// latestWords says what happens at the end of the time for which a refresh may wait. A
// condition alone keeps it no longer than that.
func latestWords(step string, unmet map[string]string, running int, deadline uint64, at string, now time.Time) string {
	if len(unmet) == 0 || running > 0 && step != "fetch" || deadline == 0 {
		return deadlineWords(deadline, at, now)
	}
	t := fromBus(deadline)
	if step == "fetch" {
		return "downloaded all the same " + day(t, now) + ", " + in(t, now)
	}
	return "refreshed all the same " + day(t, now) + ", " + in(t, now)
}

// machineText says what is known of the machine that policy can require; "" if nothing.
func machineText(m bus.ManagerProperties) string {
	words := map[string]string{"mains": "on mains power", "battery": "on battery", "unmetered": "network not metered", "metered": "network metered",
		"in-use": "in use", "idle": "nobody at work"}
	var known []string
	for _, v := range []string{m.Power, m.Network, m.Use} {
		if w := words[v]; w != "" {
			known = append(known, w)
		}
	}
	return strings.Join(known, ", ")
}
