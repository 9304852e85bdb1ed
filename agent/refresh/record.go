package refresh

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runs"
)

// Kind says what a refresh is for.
type Kind string

// The kinds.
const (
	Install Kind = "install"
	Update  Kind = "refresh"
	Revert  Kind = "revert"
	Remove  Kind = "remove"
)

// Step is one stage of a refresh.
type Step string

// The steps in their order.
const (
	Resolve       Step = "resolve"
	Fetch         Step = "fetch"
	Stage         Step = "stage"
	Precopy       Step = "precopy"
	Wait          Step = "wait"
	Inhibit       Step = "inhibit"
	Gather        Step = "gather" // of an atomic group
	StopServices  Step = "stop-services"
	Copy          Step = "copy"
	Link          Step = "link"
	StartServices Step = "start-services"
	Health        Step = "health"
	Commit        Step = "commit" // of an atomic group
	Uninhibit     Step = "uninhibit"
	Finish        Step = "finish"
)

// State is what a refresh looks like from outside.
type State string

// The states; the last four are final.
const (
	Preparing State = "preparing"
	Waiting   State = "waiting"
	Critical  State = "critical"
	Finishing State = "finishing" // the new revision is in use; what is left concerns nobody
	Undoing   State = "undoing"
	Done      State = "done"
	Undone    State = "undone"
	FailedEnd State = "failed"
	Cancelled State = "cancelled"
)

// Final says whether nothing more will happen.
func (s State) Final() bool {
	return s == Done || s == Undone || s == FailedEnd || s == Cancelled
}

// Failure is an error that survives in the journal.
type Failure struct {
	Kind problem.Kind `json:"kind"`
	Text string       `json:"text"`
	Hint string       `json:"hint,omitempty"`
}

// FailureOf records an error.
func FailureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	return &Failure{problem.KindOf(err), err.Error(), problem.HintOf(err)}
}

// Err is the error again.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	return problem.New(f.Kind, "%s", f.Text).WithHint("%s", f.Hint)
}

// Refresh is the journal record of one transaction.
type Refresh struct {
	ID          string        `json:"id"`
	Kind        Kind          `json:"kind"`
	Instance    string        `json:"instance"`
	Repository  string        `json:"repository,omitempty"`
	Channel     string        `json:"channel,omitempty"`
	Package     digest.Digest `json:"package"` // what becomes current; zero for a removal
	From        uint32        `json:"from,omitempty"`
	To          uint32        `json:"to,omitempty"`
	DataFrom    uint32        `json:"data-from,omitempty"` // the revision whose data To takes over
	FromVersion string        `json:"from-version,omitempty"`
	ToVersion   string        `json:"to-version,omitempty"`
	Urgency     string        `json:"urgency,omitempty"`
	Notes       string        `json:"notes,omitempty"` // what is new
	Purge       bool          `json:"purge,omitempty"`
	Group       string        `json:"group,omitempty"`    // of an atomic refresh
	Together    []string      `json:"together,omitempty"` // the other instances of the group

	// Since is when the postponement window of this revision began: when it was first
	// ready and the instance was not. Wall-clock time, it survives restarts.
	Since time.Time `json:"since,omitzero"`
	// Published is when the repository says that the package was; Since cannot be earlier.
	Published time.Time `json:"published,omitzero"`
	// FetchSince is when it first had to wait for a condition before it was fetched.
	FetchSince time.Time `json:"fetch-since,omitzero"`
	// Now says that somebody has asked for it: it waits for no condition.
	Now bool `json:"now,omitempty"`
	// Told are the users whom a notice was shown to.
	Told []uint32 `json:"told,omitempty"`

	Step     Step      `json:"step"`
	Undo     bool      `json:"undo,omitempty"`  // the direction has turned
	Again    bool      `json:"again,omitempty"` // after undoing the critical section, wait and try again
	Cancel   bool      `json:"cancel,omitempty"`
	Failure  *Failure  `json:"failure,omitempty"`
	FailedAt Step      `json:"failed-at,omitempty"`
	End      State     `json:"end,omitempty"`
	Ended    time.Time `json:"ended,omitzero"`

	// What is known while the agent lives and is worked out again after a restart.
	Parked      bool               `json:"-"`
	Held        bool               `json:"-"` // parked because of a hold
	Unmet       []conditions.Unmet `json:"-"` // conditions for which it waits
	WaitingFor  []runs.Process     `json:"-"` // as they were seen last; none once the door is to be shut
	Deadline    time.Time          `json:"-"`
	BytesDone   int64              `json:"-"`
	BytesTotal  int64              `json:"-"`
	EnteredAt   time.Time          `json:"-"` // the critical section
	Estimate    time.Duration      `json:"-"` // how long the critical section may take
	BlockedTime time.Duration      `json:"-"` // how long the last critical section lasted
}

// State is derived from the record.
func (r *Refresh) State() State {
	switch {
	case r.End != "":
		return r.End
	case r.Undo:
		return Undoing
	case r.Parked || r.Step == Wait || r.Step == Inhibit && len(r.WaitingFor) > 0:
		return Waiting // or looks whether it still has to, under the lock of the door, and lets it be seen when it has not
	case critical(r.Step):
		return Critical
	case r.Step == Finish:
		return Finishing
	default:
		return Preparing
	}
}

// plans lists the steps of each kind. Finish is last everywhere.
var plans = map[Kind][]Step{
	Install: {Resolve, Fetch, Stage, Inhibit, Copy, Link, StartServices, Health, Uninhibit, Finish},
	Update:  {Resolve, Fetch, Stage, Precopy, Wait, Inhibit, StopServices, Copy, Link, StartServices, Health, Uninhibit, Finish},
	Revert:  {Stage, Wait, Inhibit, StopServices, Link, StartServices, Health, Uninhibit, Finish},
	Remove:  {Wait, Inhibit, StopServices, Link, Uninhibit, Finish},
}

// ForOthers says that the refresh was given up because another member of its group
// was: there is nothing wrong with its own revision.
func (r *Refresh) ForOthers() bool { return r.FailedAt == Gather || r.FailedAt == Commit }

// plan lists the steps of a record.
func (r *Refresh) plan() []Step {
	if r.Group != "" {
		return together
	}
	return plans[r.Kind]
}

// together is the plan of each member of an atomic group.
var together = func() []Step {
	p := slices.Insert(slices.Clone(plans[Update]), slices.Index(plans[Update], StopServices), Gather)
	return slices.Insert(p, slices.Index(p, Uninhibit), Commit)
}()

// critical says whether launches wait during a step.
func critical(s Step) bool {
	switch s {
	case Inhibit, Gather, StopServices, Copy, Link, StartServices, Health, Commit, Uninhibit:
		return true
	}
	return false
}
