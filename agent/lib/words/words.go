// Package words has the words that the agent, the launcher and the users' helpers
// exchange. The bus interfaces document them: LaunchWaits in
// dbus/org.lull.Session1.xml, Helper.Work in dbus/org.lull.Agent1.xml. It holds no
// state.
package words

// The words of the marker .inhibited: why launches of an instance wait.
const (
	RefreshPending    = "refresh-pending"     // policy blocks new launches until the application was vacant
	RefreshInProgress = "refresh-in-progress" // the critical section: everything waits
	RefreshStarting   = "refresh-starting"    // linked: services start, applications wait for the health check
)

// The phases of the user's part of a refresh.
const (
	PhasePrecopy = "precopy"
	PhaseEnter   = "enter"
	PhaseUndo    = "undo"
	PhaseAbandon = "abandon"
	PhaseFinish  = "finish"
	PhaseSession = "session"
)
