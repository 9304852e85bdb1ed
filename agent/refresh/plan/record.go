package plan

import (
	"slices"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/runs"
)

// Kind is the purpose of a refresh.
type Kind string

// The kinds.
const (
	Install Kind = "install"
	Update  Kind = "refresh"
	Revert  Kind = "revert"
	Remove  Kind = "remove"
)

// Word implements errkind.Word.
func (k Kind) Word() string {
	switch k {
	case Install:
		return errkind.Mark("install")
	case Update:
		return errkind.Mark("refresh")
	case Revert:
		return errkind.Mark("revert")
	}
	return errkind.Mark("remove")
}

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

// State is the state of a refresh as seen from outside.
type State string

// The states; the last four are final.
const (
	Preparing State = "preparing"
	Waiting   State = "waiting"
	Critical  State = "critical"
	Finishing State = "finishing" // the new revision is in use; only cleaning up is left
	Undoing   State = "undoing"
	Stuck     State = "stuck" // undoing has failed: the old revision is in use; a person must help
	Done      State = "done"
	Undone    State = "undone"
	FailedEnd State = "failed"
	Cancelled State = "cancelled"
)

// Final reports whether the refresh has ended.
func (s State) Final() bool {
	return s == Done || s == Undone || s == FailedEnd || s == Cancelled
}

// Failure is an error that survives in the journal.
type Failure struct {
	Kind errkind.Kind `json:"kind"`
	Text string       `json:"text"`
	Hint string       `json:"hint,omitempty"`
}

// FailureOf records an error.
func FailureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	return &Failure{errkind.KindOf(err), err.Error(), errkind.HintOf(err)}
}

// Err returns the recorded error.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	return errkind.New(f.Kind, "%s", f.Text).WithHint("%s", f.Hint)
}

// Asker is the user who asked for a refresh.
type Asker struct {
	UID  uint32 `json:"uid"`
	Name string `json:"name"` // the name that UID had
}

// Refresh is the journal record of one transaction.
type Refresh struct {
	ID          string          `json:"id"`
	Kind        Kind            `json:"kind"`
	Instance    string          `json:"instance"`
	Repository  string          `json:"repository,omitempty"`
	Channel     string          `json:"channel,omitempty"`
	Package     digest.Digest   `json:"package"` // the one that becomes current; zero for a removal
	From        uint32          `json:"from,omitempty"`
	To          uint32          `json:"to,omitempty"`
	DataFrom    uint32          `json:"data-from,omitempty"` // the revision whose data To takes over
	FromVersion string          `json:"from-version,omitempty"`
	ToVersion   string          `json:"to-version,omitempty"`
	Urgency     string          `json:"urgency,omitempty"`
	Notes       string          `json:"notes,omitempty"` // release notes
	Wishes      manifest.Wishes `json:"wishes,omitzero"` // of From's package, whose processes are waited for
	Purge       bool            `json:"purge,omitempty"`
	Group       string          `json:"group,omitempty"`    // of an atomic refresh
	Together    []string        `json:"together,omitempty"` // the other instances of the group

	// Since is when the postponement window of this revision began: when it was first ready
	// and the instance was not. It is wall-clock time, so that it survives restarts.
	Since time.Time `json:"since,omitzero"`
	// Published is the publication time in the repository; Since cannot be earlier.
	Published time.Time `json:"published,omitzero"`
	// FetchSince is when the refresh first had to wait for a condition before its fetch.
	FetchSince time.Time `json:"fetch-since,omitzero"`
	// Large is how many bytes it fetches, if that is so much that a user is notified before;
	// zero means that it is not. The fetch does not begin before LargeFrom, so that the user
	// can answer. LargeNotified is the user who was notified; nil means that none was yet.
	Large         int64     `json:"large,omitempty"`
	LargeFrom     time.Time `json:"large-from,omitzero"`
	LargeNotified *uint32   `json:"large-notified,omitempty"`
	// Now means that it was requested explicitly: it waits for no condition.
	Now bool `json:"now,omitempty"`
	// Early means that it was requested regardless of rollouts.
	Early bool `json:"early,omitempty"`
	// Beside means that it was requested to switch under running applications, this once.
	Beside bool `json:"beside,omitempty"`
	// Ahead is the duration of the precopy of the system data. It copied AheadFiles of
	// AheadAll files and symlinks, with AheadBytes. The others were there from an interrupted
	// copy.
	Ahead      time.Duration `json:"ahead,omitempty"`
	AheadFiles int64         `json:"ahead-files,omitempty"`
	AheadBytes int64         `json:"ahead-bytes,omitempty"`
	AheadAll   int64         `json:"ahead-all,omitempty"`
	// Asker is the user who requested it; nil means that the agent began it by itself.
	Asker *Asker    `json:"asker,omitempty"`
	Began time.Time `json:"began,omitzero"`
	// Notified lists the users who were shown a notice.
	Notified []uint32 `json:"told,omitempty"`

	Step     Step      `json:"step"`
	Undo     bool      `json:"undo,omitempty"`  // the direction has turned
	Again    bool      `json:"again,omitempty"` // after undoing the critical section, wait and retry
	Cancel   bool      `json:"cancel,omitempty"`
	Failure  *Failure  `json:"failure,omitempty"`
	FailedAt Step      `json:"failed-at,omitempty"`
	Stuck    *Failure  `json:"stuck,omitempty"` // why it could not be undone; it stays at Step until retried
	End      State     `json:"end,omitempty"`
	Ended    time.Time `json:"ended,omitzero"`
	// BlockedTime is how long the last critical section lasted.
	BlockedTime time.Duration `json:"blocked,omitempty"`

	// The fields below are not in the journal. A restarted agent determines them itself.
	Tries      int                `json:"-"` // how often undoing Step has failed
	Barred     bool               `json:"-"` // it is stuck, and the old revision cannot be made current: launches wait
	Parked     bool               `json:"-"`
	Held       bool               `json:"-"` // parked because of a hold
	Unmet      []conditions.Unmet `json:"-"` // conditions for which it waits
	WaitingFor []runs.Process     `json:"-"` // as seen last; empty once launches will be inhibited
	Readers    []runs.Process     `json:"-"` // those of WaitingFor that only have a file of the package open
	Deadline   time.Time          `json:"-"`
	BytesDone  int64              `json:"-"`
	BytesTotal int64              `json:"-"`
	ToFetch    int64              `json:"-"` // bytes, as determined before the first of them was fetched
	ToWrite    int64              `json:"-"` // bytes on the disk for them
	Speed      int64              `json:"-"` // bytes that arrive per second
	EnteredAt  time.Time          `json:"-"` // the critical section
	Estimate   time.Duration      `json:"-"` // how long the critical section may take
	ToCopy     int64              `json:"-"` // bytes of the system data left to copy, as found last
}

// State is derived from the record.
func (r *Refresh) State() State {
	switch {
	case r.End != "":
		return r.End
	case r.Stuck != nil:
		return Stuck
	case r.Undo:
		return Undoing
	case r.Parked || (r.Step == Wait || r.Step == Inhibit) && r.waits():
		// It is shown as waiting while it rechecks under the exclusive lock, until it need
		// not wait.
		return Waiting
	case r.Step.InSection():
		return Critical
	case r.Step == Finish:
		return Finishing
	default:
		return Preparing
	}
}

// GoesBack reports whether an administrator has asked for the instance, or its revision, to
// go. A newer version does not end that.
func (r *Refresh) GoesBack() bool { return r.Kind == Remove || r.Kind == Revert }

// Announced reports whether users are notified of what it is about to fetch, or fetches: it
// does that by itself, and no hold keeps it from that.
func (r *Refresh) Announced() bool {
	return r.Large > 0 && r.Kind == Update && r.Step == Fetch && !r.Now && !r.Undo && !r.Held && r.End == ""
}

// DownloadBegins returns when a large download begins that waits for the answer to its notice;
// zero means that it waits for none.
func (r *Refresh) DownloadBegins() time.Time {
	if r.Parked && r.Announced() && len(r.Unmet) == 0 {
		return r.LargeFrom
	}
	return time.Time{}
}

// HoldSince returns since when users' holds have put off this revision: since it was ready, or
// since the notice of a large download. Zero means not yet.
func (r *Refresh) HoldSince() time.Time {
	if r.Since.IsZero() && r.Large > 0 {
		return r.FetchSince
	}
	return r.Since
}

// waits reports whether the last check found a reason to wait. A refresh that has not checked
// yet may be done in a moment.
func (r *Refresh) waits() bool { return len(r.WaitingFor) > 0 || r.Held || len(r.Unmet) > 0 }

// Plan lists the steps of a kind, Finish last; nil for an unknown one.
func (k Kind) Plan() []Step { return plans[k] }

var plans = map[Kind][]Step{
	Install: {Resolve, Fetch, Stage, Inhibit, Copy, Link, StartServices, Health, Uninhibit, Finish},
	Update:  {Resolve, Fetch, Stage, Precopy, Wait, Inhibit, StopServices, Copy, Link, StartServices, Health, Uninhibit, Finish},
	Revert:  {Stage, Wait, Inhibit, StopServices, Link, StartServices, Health, Uninhibit, Finish},
	Remove:  {Wait, Inhibit, StopServices, Link, Uninhibit, Finish},
}

// ForOthers reports whether the refresh was given up because another member of its group was:
// its own revision is not at fault.
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

// InSection reports whether launches wait during a step.
func (s Step) InSection() bool {
	switch s {
	case Inhibit, Gather, StopServices, Copy, Link, StartServices, Health, Commit, Uninhibit:
		return true
	}
	return false
}
