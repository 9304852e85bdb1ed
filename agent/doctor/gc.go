package doctor

import (
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store/gc"
)

// checkUnread names the processes whose files in use the last collection could not determine.
// A user's own agent cannot read the processes of other users, which is not an error.
func (d *Doctor) checkUnread(add func(name, state, seen, advice string)) {
	result := d.Collected()
	if len(result.Unread) == 0 || d.User {
		return
	}
	add("processes", Warn, errkind.Text("%s cannot be read: what they use is not kept by that", gc.UnreadNames(result.Unread)),
		errkind.Text("see why they do not let themselves be read; a package that such a process uses outside any run may be collected"))
}
