package output

// Stuck is the state of a refresh that could not be undone.
const Stuck = "stuck"

// stateTexts are the states that people read: of refreshes, revisions and services, of
// updates of the system, and of checks.
var stateTexts = map[string]string{
	"done": Mark("done"), "undone": Mark("undone"), "failed": Mark("failed"), "cancelled": Mark("cancelled"),
	"preparing": Mark("preparing"), "waiting": Mark("waiting"), "undoing": Mark("undoing"), Stuck: Mark("stuck"),
	"current": Mark("current"), "retained": Mark("retained"), "previous": Mark("previous"),
	"active": Mark("active"), "inactive": Mark("inactive"), "activating": Mark("activating"), "deactivating": Mark("deactivating"),
	"running": Mark("running"), "stopped": Mark("stopped"),
	"idle": Mark("idle"), "staging": Mark("staging"), "staged": Mark("staged"), "interrupted": Mark("interrupted"),
	"booted": Mark("booted"), "committed": Mark("committed"),
	"ok": Mark("ok"), "warn": Mark("warn"), "fail": Mark("fail"),
}

// StateText returns the translated text of a state. An unknown one remains unchanged.
func StateText(state string) string {
	if text, ok := stateTexts[state]; ok {
		return Marked(text)
	}
	return state
}

// Over reports whether a refresh in this state has ended.
func Over(state string) bool {
	switch state {
	case "done", "undone", "failed", "cancelled":
		return true
	}
	return false
}
