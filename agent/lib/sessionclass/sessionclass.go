// Package sessionclass has the facts about org.freedesktop.login1 that the
// agent and the helper share. It holds no state.
package sessionclass

import "slices"

// people are the classes of sessions that a person may use: pam_systemd(8). The
// early ones are logged in before others may, the light ones have no manager of their
// own. A session of class user-incomplete becomes one of class user when its home is
// there, and changes its property then.
var people = []string{"user", "user-early", "user-light", "user-early-light"}

// IsPerson reports whether a session of that class is one of a person who may sit at
// it: no log-in or lock screen, no manager and no background service.
func IsPerson(class string) bool { return slices.Contains(people, class) }
