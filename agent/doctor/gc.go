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
	add("processes", Warn, errkind.Text("%s cannot be read: packages that nothing else uses are not protected", gc.UnreadNames(result.Unread)),
		errkind.Text("find out why root cannot read them; a package that such a process uses outside of any run may be collected"))
}
