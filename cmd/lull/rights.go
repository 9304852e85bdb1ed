package main

import (
	"maps"
	"slices"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
)

// rightJSON is something that an installed application does beside being run by a user.
type rightJSON struct {
	Instance string `json:"instance"`
	Kind     string `json:"kind"` // service, user-service, hook, bus-name, autostart
	Name     string `json:"name"`
	User     string `json:"user,omitempty"` // of a service or hook of the system
}

// rightsOf lists the rights of a package beyond programs that users start. Nil means that it
// is not in the store. An entry without a user runs as agentUser.
func rightsOf(instance, agentUser string, l *manifest.Launch) (list []rightJSON) {
	if l == nil {
		return nil
	}
	hookUser := "" // see services.HookUser
	for _, s := range l.Services {
		hookUser = output.Either(hookUser, s.User)
		if s.Scope == manifest.ScopeUser {
			list = append(list, rightJSON{instance, "user-service", s.Name, ""})
			continue
		}
		list = append(list, rightJSON{instance, "service", s.Name, output.Either(s.User, agentUser)})
	}
	for _, hook := range slices.Sorted(maps.Keys(l.Hooks)) {
		if slices.Contains([]string{manifest.HookPreRefresh, manifest.HookPostRefresh, manifest.HookHealth}, hook) {
			list = append(list, rightJSON{instance, "hook", hook, output.Either(hookUser, agentUser)})
		}
	}
	for _, app := range l.Apps {
		// A keyed instance has no bus names: see agent/exports.
		if _, key := manifest.SplitInstance(instance); app.DBusName != "" && key == "" {
			list = append(list, rightJSON{instance, "bus-name", app.DBusName, ""})
		}
		if app.Autostart != "" {
			list = append(list, rightJSON{instance, "autostart", app.Name, ""})
		}
	}
	return list
}

// rightsFields describes them in words, a line for each.
func rightsFields(list []rightJSON) (pairs [][2]string) {
	label := output.Mark("Rights")
	add := func(text string) {
		pairs = append(pairs, [2]string{label, text})
		label = ""
	}
	for _, r := range list {
		switch r.Kind {
		case "service":
			add(output.T("service %[1]s runs in the background as user %[2]s", r.Name, r.User))
		case "user-service":
			add(output.T("service %s runs in the session of each user", r.Name))
		case "hook":
			add(output.T("program %[1]s runs during a refresh as user %[2]s", r.Name, r.User))
		case "bus-name":
			add(output.T("has the name %s on the message bus of the session", r.Name))
		case "autostart":
			add(output.T("%s starts when a user logs in", r.Name))
		}
	}
	return pairs
}
