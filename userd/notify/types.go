package notify

import "time"

// Pending is a refresh that waits for an application of this user.
type Pending struct {
	ID           string
	Instance     string
	Name         string // shown to people
	FromVersion  string
	ToVersion    string
	FromRevision uint32
	ToRevision   uint32
	Urgency      string // low, medium, high or security
	Notes        string // what is new
	Since        time.Time
	Deadline     time.Time   // zero: none
	Reminders    []time.Time // the agent's policy; empty: the helper's own Schedule
	AtDeadline   string      // keep-waiting, side-by-side or terminate
	DesktopEntry string
	Icon         string
	DBusName     string // under which its application can be asked to quit
	Hook         bool   // it has a refresh-pending hook, which is asked instead
	Processes    []Process
}

// Process is one that the refresh waits for.
type Process struct {
	PID     uint32
	UID     uint32
	Command string
}

// Done is a refresh that has taken place.
type Done struct {
	ID, Instance, Name     string
	FromVersion, ToVersion string
	DesktopEntry, Icon     string
}

// Kind tells notices apart.
type Kind string

// The kinds of notices.
const (
	Ready Kind = "ready" // a refresh waits for the person to close the application
	Open  Kind = "open"  // the application was asked to quit and is still there
	After Kind = "after" // the refresh is done
	Wait  Kind = "wait"  // a launch waits for a refresh
	Down  Kind = "down"  // the machine goes off while something is refreshed
)

// Why a launch waits: the words of the marker, as the design has them.
const (
	RefreshPending    = "refresh-pending"
	RefreshInProgress = "refresh-in-progress"
	RefreshStarting   = "refresh-starting"
)

// Actions of notices, as the agent and the notification server know them.
const (
	RestartNow = "restart-now"
	WhenClosed = "when-closed"
	Later      = "later"
	Default    = "default" // a click on the notice itself
)

// Button is an action with its label.
type Button struct{ Action, Label string }

// Urgency levels of the notification specification; critical is never used.
const (
	Low    byte = 0
	Normal byte = 1
)

// Notice is what is shown. All text is plain: markup is the sender's business.
type Notice struct {
	Serial       uint64 // tells this content from earlier ones of the instance
	Kind         Kind
	Refresh      string // id
	Instance     string // "" with Down
	App          string // the name of the application
	Summary      string
	Body         string
	Buttons      []Button
	Urgency      byte
	Expire       time.Duration // 0: as long as the server thinks fit
	Percent      int           // how far it is; 0 or less: that is not known
	DesktopEntry string
	Icon         string
}

// An Event is something that has happened.
type Event interface{ event() }

// What the agent says.
type (
	// AgentUp: the agent has appeared on its bus.
	AgentUp struct{}
	// AgentDown: it has left.
	AgentDown struct{}
	// Listed answers Ask: all refreshes that are pending for this user.
	Listed struct{ List []Pending }
	// AskFailed answers Ask when the agent did not.
	AskFailed struct{}
	// Changed: what is pending has changed.
	Changed struct{}
	// Withdrawn: the refresh of that id is pending no longer.
	Withdrawn struct{ ID, Reason string }
	// Updated: a refresh is done.
	Updated struct{ Done Done }
	// Finished: some refresh of the instance has ended; Result is done,
	// undone, failed or cancelled.
	Finished struct{ Instance, Result string }
	// Progress answers Follow, once at least: what is launched, and how far the
	// refresh is that it waits for (-1: that is not known).
	Progress struct {
		Instance, Name, DesktopEntry, Icon string
		Percent                            int
	}
	// ShuttingDown: the machine goes off, but not before these applications are
	// refreshed, which takes about Left. No names: that is no longer so.
	ShuttingDown struct {
		Names []string
		Left  time.Duration
	}
)

// What the desktop and the session say.
type (
	// Closed: a notice has left the screen, by time or by hand.
	Closed struct {
		Instance string
		Serial   uint64
	}
	// Invoked: a button was pressed.
	Invoked struct{ Instance, Action string }
	// Disturb says whether the notification server lets itself be disturbed.
	Disturb struct{ No bool }
	// Locked says whether the screen is locked, or the session in the
	// background.
	Locked struct{ Yes bool }
	// Fullscreen says whether a window fills the screen.
	Fullscreen struct{ Yes bool }
	// LaunchWaits: a launch, which has that name on the session bus, waits.
	LaunchWaits struct{ Launch, Instance, Why string }
	// LaunchOver: it has started, or ended.
	LaunchOver struct{ Launch string }
	// ShowAll: somebody asks to see every notice again, now.
	ShowAll struct{}
	// Tick: time has passed.
	Tick struct{}
)

func (AgentUp) event()   {}
func (AgentDown) event() {}
func (Listed) event()    {}
func (AskFailed) event() {}
func (Changed) event()   {}
func (Withdrawn) event() {}
func (Updated) event()   {}
func (Finished) event()  {}
func (Closed) event()    {}
func (Invoked) event()   {}
func (Disturb) event()   {}
func (Locked) event()    {}
func (ShowAll) event()   {}
func (Tick) event()      {}

func (Progress) event()     {}
func (ShuttingDown) event() {}
func (LaunchWaits) event()  {}
func (LaunchOver) event()   {}
func (Fullscreen) event()   {}

// An Effect is something to do.
type Effect interface{ effect() }

type (
	// Ask the agent what is pending; Listed or AskFailed answers.
	Ask struct{}
	// Show puts a notice up, in the place of the instance's present one.
	Show struct{ Notice Notice }
	// Close takes the instance's notice down. With Keep it is still true, and
	// its buttons work where the server has a history.
	Close struct {
		Instance string
		Keep     bool
	}
	// Answer tells the agent what the person wants.
	Answer struct{ ID, Action string }
	// Quit asks the application to end itself.
	Quit struct{ Pending Pending }
	// Launch starts the application again, if what was asked to quit did.
	Launch struct{ Instance string }
	// Forget what Quit has kept for Launch.
	Forget struct{ Instance string }
	// Follow has the agent's progress with an instance told, or no longer.
	Follow struct {
		Instance string
		Yes      bool
	}
	// Remember writes the memory down.
	Remember struct{ Memory map[string]Memory }
	// Wake sends a Tick at that time and at no other; zero: never.
	Wake struct{ At time.Time }
)

func (Ask) effect()      {}
func (Show) effect()     {}
func (Close) effect()    {}
func (Answer) effect()   {}
func (Quit) effect()     {}
func (Launch) effect()   {}
func (Forget) effect()   {}
func (Follow) effect()   {}
func (Remember) effect() {}
func (Wake) effect()     {}

// Memory is what is remembered of an instance.
type Memory struct {
	Revision uint32    `json:"revision"`          // that the person was told of last
	Shown    time.Time `json:"shown"`             // when
	Answer   string    `json:"answer,omitempty"`  // what the person said to it
	Up       bool      `json:"up,omitempty"`      // on the screen
	Restart  *Restart  `json:"restart,omitempty"` // "Restart now" is on its way
}

// Restart is a wish that is being fulfilled: quit, refresh, launch.
type Restart struct {
	ID     string    `json:"id"`
	Asked  time.Time `json:"asked"`
	Quit   bool      `json:"quit,omitempty"`   // the application was asked
	Exited time.Time `json:"exited,omitzero"`  // the agent has seen it go
	Warned bool      `json:"warned,omitempty"` // the person was told that it is still open
}
