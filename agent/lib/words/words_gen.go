// Code generated from dbus/*.xml by go generate ./dbus; DO NOT EDIT.

package words

// The words of the marker .inhibited: why launches of an instance wait.
const (
	RefreshPending    = "refresh-pending"
	RefreshInProgress = "refresh-in-progress"
	RefreshStarting   = "refresh-starting"
)

// The phases of the user's part of a refresh.
const (
	// PhasePrecopy: the refresh is prepared: copy the data of the nearest earlier revision ahead of time, in the background.
	PhasePrecopy = "precopy"
	// PhaseEnter: no process of the instance may run now: stop the services in the given order and call WorkDone; then copy the changed data ahead of time.
	PhaseEnter = "enter"
	// PhaseUndo: the refresh failed for now: start the stopped services.
	PhaseUndo = "undo"
	// PhaseAbandon: the refresh is cancelled: discard the copied data.
	PhaseAbandon = "abandon"
	// PhaseFinish: the refresh is complete and permanent: migrate the data, then start the services.
	PhaseFinish = "finish"
	// PhaseSession: the services that belong to a session now.
	PhaseSession = "session"
)
