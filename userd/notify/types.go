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
	QuitHook     bool   // it has a hook that asks it to quit, in place of any other way
	PendingHook  bool   // it has a hook that runs once when a refresh becomes pending
	Background   bool   // all its processes are programs that no person has started
	// RestartBackground: the policy lets such programs be restarted while the session is
	// not used.
	RestartBackground bool
	Conditions        []string // what policy requires of the machine and is not so: mains, unmetered, idle, window
	Processes         []Process
}

// Process is one that the refresh waits for.
type Process struct {
	PID     uint32
	UID     uint32
	Command string
	Other   bool // it is no program of the package: the application has started it
}

// Done is a refresh that has taken place.
type Done struct {
	ID, Instance, Name     string
	FromVersion, ToVersion string
	DesktopEntry, Icon     string
}

// Failure is a repository that could not be read for long, or a package that could not be
// refreshed.
type Failure struct {
	Repository  bool
	Name, Title string // Title is shown to people
	Since       time.Time
	Cause       string // the kind of the last error
	Text        string // of the last error
	Notified    bool   // this user was notified of it before
}

// Download is a refresh that fetches much by itself.
type Download struct {
	ID, Instance, Name, Version string
	DesktopEntry, Icon          string
	Bytes                       uint64
	Begins                      time.Time // zero: it has begun
	HoldUntil                   time.Time // until when the user may put it off; zero: not at all
	Unmetered                   bool      // it waits by itself while the network is metered
	Notified                    bool      // this user was notified of it before
}

// Kind distinguishes notices.
type Kind string

// The kinds of notices.
const (
	Ready  Kind = "ready"  // a refresh waits for the person to close the application
	Open   Kind = "open"   // the application was asked to quit and is still there
	After  Kind = "after"  // the refresh is done
	Undone Kind = "undone" // the new revision did not work, and the old one is back
	Lacks  Kind = "lacks"  // the data of the new revision lacks files of the old one's
	Wait   Kind = "wait"   // a launch waits for a refresh
	Down   Kind = "down"   // the machine goes off while something is refreshed
	Fetch  Kind = "fetch"  // a refresh fetches much
	Fails  Kind = "fails"  // repositories cannot be read, or packages not be refreshed, for long
)

// Actions of notices, as named for the agent and the notification server.
const (
	RestartNow = "restart-now"
	WhenClosed = "when-closed"
	Later      = "later"
	NextStart  = "next-start"
	LogOut     = "log-out"
	FetchNow   = "download-now"
	Tomorrow   = "tomorrow" // put a download off
	Default    = "default"  // a click on the notice itself
)

// Button is an action with its label.
type Button struct{ Action, Label string }

// How pressing a notice is. One that becomes more pressing while it is up is
// shown as a new one. Each is sent with urgency "normal": "low" shows nothing
// on GNOME and is not kept on Plasma, and critical is never used.
const (
	Low    byte = 0
	Normal byte = 1
)

// Notice is what is shown. All text is plain: markup is the sender's business.
type Notice struct {
	Serial       uint64 // distinguishes this content from earlier ones of the instance
	Kind         Kind
	Refresh      string // id
	Agent        string // whose instance it is; the core leaves it to its caller
	Instance     string // "" with Down, failuresKey with Fails, downloadsKey with Fetch
	App          string // the name of the application
	Summary      string
	Body         string
	Buttons      []Button
	Urgency      byte
	Alert        bool          // to be seen as a new one, also where another one of the instance is up
	Expire       time.Duration // 0 means the server's default, negative until it is closed
	Percent      int           // how far it is; 0 or less: that is not known
	DesktopEntry string
	Icon         string
}

// isNews reports whether a notice is about what has happened, not about what is so.
func (n *Notice) isNews() bool { return n.Kind == After || n.Kind == Undone || n.Kind == Lacks }

// An Event is an input of the core.
type Event interface{ event() }

// Events of the agent.
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
	// Failing: what has failed for long, and this user is to be notified of.
	Failing struct{ List []Failure }
	// Downloads: large ones that this user is to be notified of.
	Downloads struct{ List []Download }
	// LogOutOffered: whether the desktop can be asked to log out.
	LogOutOffered struct{ Yes bool }
	// ShuttingDown: the machine goes off, but not before these applications are
	// refreshed, which takes about Left. No names: that is no longer so.
	ShuttingDown struct {
		Names []string
		Left  time.Duration
	}
)

// Events of the desktop and the session.
type (
	// Closed: a notice has left the screen, by time or by hand.
	Closed struct {
		Agent    string // as in the notice
		Instance string
		Serial   uint64
	}
	// Invoked: a button was pressed.
	Invoked struct {
		Agent            string // as in the notice
		Instance, Action string
	}
	// Language names the languages of the desktop, the preferred one first; none means English.
	Language struct{ Names []string }
	// Disturb reports whether the notification server may be disturbed.
	Disturb struct{ No bool }
	// Locked reports whether the screen is locked, or the session in the
	// background.
	Locked struct{ Yes bool }
	// Unused reports whether the user works in none of the sessions.
	Unused struct{ Yes bool }
	// Fullscreen reports whether a window fills the screen.
	Fullscreen struct{ Yes bool }
	// LaunchWaits: a launch, which has that name on the session bus, waits.
	LaunchWaits struct{ Launch, Instance, Why string }
	// LaunchOver: it has started, or ended.
	LaunchOver struct{ Launch string }
	// DataIncomplete: an application is started on a copy of its data that lacks Count
	// files, First among them. They still are in Directory.
	DataIncomplete struct {
		Instance, Name   string
		Count            uint32
		First, Directory string
	}
	// ShowAll: a request to re-show every notice now.
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
func (Language) event()  {}
func (Disturb) event()   {}
func (Locked) event()    {}
func (ShowAll) event()   {}
func (Tick) event()      {}

func (Progress) event()     {}
func (ShuttingDown) event() {}
func (LaunchWaits) event()  {}
func (LaunchOver) event()   {}
func (Fullscreen) event()   {}
func (Unused) event()       {}

func (DataIncomplete) event() {}
func (LogOutOffered) event()  {}
func (Failing) event()        {}
func (Downloads) event()      {}

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
		Agent    string // as in the notice
		Instance string
		Keep     bool
	}
	// Answer sends the user's answer to the agent.
	Answer struct{ ID, Action string }
	// PutOff holds a refresh, so that its download waits.
	PutOff struct {
		Instance, Reason string
		Until            time.Time
	}
	// Quit asks the application to end itself.
	Quit struct{ Pending Pending }
	// AskToLogOut has the desktop ask the user whether to log out.
	AskToLogOut struct{}
	// RunHook runs the hook of the package for refreshes that become pending.
	RunHook struct{ Pending Pending }
	// Launch restarts the application, if the processes that were asked to quit did.
	Launch struct{ Instance string }
	// Forget what Quit has kept for Launch.
	Forget struct{ Instance string }
	// Follow starts or stops following the agent's progress with an instance.
	Follow struct {
		Instance string
		Yes      bool
	}
	// Remember writes the memory down.
	Remember struct{ Memory map[string]Memory }
	// Wake sends a Tick at that time and at no other; zero: never.
	Wake struct{ At time.Time }
)

func (Ask) effect()    {}
func (Show) effect()   {}
func (Close) effect()  {}
func (Answer) effect() {}
func (Quit) effect()   {}

func (AskToLogOut) effect() {}
func (PutOff) effect()      {}

func (RunHook) effect()  {}
func (Launch) effect()   {}
func (Forget) effect()   {}
func (Follow) effect()   {}
func (Remember) effect() {}
func (Wake) effect()     {}

// Memory is what is remembered of an instance.
type Memory struct {
	Revision uint32    `json:"revision"`          // announced last
	Shown    time.Time `json:"shown"`             // when
	Answer   string    `json:"answer,omitempty"`  // the user's answer to it
	Up       bool      `json:"up,omitempty"`      // on the screen
	Undone   uint32    `json:"undone,omitempty"`  // failed revision, announced last
	Restart  *Restart  `json:"restart,omitempty"` // "Restart now" is on its way
	Hooked   uint32    `json:"hooked,omitempty"`  // last revision whose hook was run
	HookedAt time.Time `json:"hooked-at,omitzero"`
	Tried    uint32    `json:"tried,omitempty"` // last revision that a background program was restarted for
	// Failures are those that were shown, with failuresKey in place of an instance.
	Failures []string `json:"failures,omitempty"`
	// Downloads are those that were shown, with downloadsKey in place of an instance.
	Downloads []string `json:"downloads,omitempty"`
}

// Restart is a wish that is being fulfilled: quit, refresh, launch.
type Restart struct {
	ID     string    `json:"id"`
	Asked  time.Time `json:"asked"`
	Quit   bool      `json:"quit,omitempty"`   // the application was asked
	Exited time.Time `json:"exited,omitzero"`  // the agent has seen it go
	Warned bool      `json:"warned,omitempty"` // the user was notified that it is still open
}
