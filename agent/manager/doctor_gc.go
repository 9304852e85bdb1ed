package manager

import (
	"fmt"
	"strings"

	"github.com/lull/lull/agent/store/gc"
)

// maxNamedUnread bounds how many processes the doctor and the log name.
const maxNamedUnread = 8

// checkUnread names the processes whose files in use the last collection could not determine.
// A user's own agent cannot read the processes of other users, which is not an error.
func (m *Manager) checkUnread(add func(name, state, seen, advice string)) {
	result, _ := m.LastCollection()
	if len(result.Unread) == 0 || m.User {
		return
	}
	add("processes", checkWarn, unreadText(result.Unread)+" cannot be read: what they use is not kept by that",
		"see why they do not let themselves be read; a package that such a process uses outside any run may be collected")
}

// unreadText names processes: "process 12 (cat, user 1000) and 3 more".
func unreadText(list []gc.Unread) string {
	var names []string
	for _, u := range list[:min(len(list), maxNamedUnread)] {
		names = append(names, fmt.Sprintf("process %d (%s, user %d)", u.PID, u.Command, u.UID))
	}
	text := strings.Join(names, ", ")
	if more := len(list) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
