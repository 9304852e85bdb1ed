package reports

import (
	"encoding/json"
	"time"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/runs"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/sysupdate"
)

// inspection is the complete state of the agent. Version grows when a field changes its
// meaning.
type inspection struct {
	Version      int                    `json:"version"`
	Root         string                 `json:"root"`
	Tracker      string                 `json:"tracker"`
	Events       string                 `json:"tracker-events"`
	Services     string                 `json:"service-manager"`
	Instances    []state.Instance       `json:"instances"`
	Current      map[string]uint32      `json:"current"`
	Indices      map[string][]protected `json:"indices"` // all of them
	Transfers    []resolve.Transfer     `json:"transfers"`
	Runs         []runs.Run             `json:"runs"`
	Refreshes    []refreshView          `json:"refreshes"`
	System       systemView             `json:"system"`
	Repositories repositories.State     `json:"repositories"`
	Logind       bool                   `json:"logind"`
	Collected    time.Time              `json:"collected,omitzero"`
	Collection   *collection            `json:"collection,omitempty"` // that of Collected
	Machine      conditions.State       `json:"machine"`
}

type collection struct {
	Blobs    int   `json:"blobs"`
	Packages int   `json:"packages"`
	Bytes    int64 `json:"bytes"`
	Strays   int   `json:"strays"`
}

// systemView is the state of a system update.
type systemView struct {
	State      string         `json:"state"`
	Step       string         `json:"step,omitempty"`
	Committed  *sysupdate.Set `json:"committed,omitempty"`
	Booted     *sysupdate.Set `json:"booted,omitempty"`
	Staged     *sysupdate.Set `json:"staged,omitempty"`
	Asked      string         `json:"asked,omitempty"`
	BytesDone  int64          `json:"bytes-done,omitempty"`
	BytesTotal int64          `json:"bytes-total,omitempty"`
	Error      string         `json:"error,omitempty"`
}

func viewSystem(st sysupdate.Status) systemView {
	v := systemView{State: st.State, Step: st.Step, Committed: st.Committed, Booted: st.Booted, Staged: st.Staged, Asked: st.Asked,
		BytesDone: st.Done, BytesTotal: st.Total}
	if st.Err != nil {
		v.Error = st.Err.Error()
	}
	return v
}

type protected struct {
	Package string `json:"package"`
	Holder  string `json:"holder,omitempty"`
	PID     int    `json:"pid,omitempty"`
}

type refreshView struct {
	plan.Refresh
	State      plan.State         `json:"state"`
	WaitingFor []runs.Process     `json:"waiting-for,omitempty"`
	Conditions []conditions.Unmet `json:"conditions,omitempty"`
	Deadline   time.Time          `json:"deadline,omitzero"`
	BytesDone  int64              `json:"bytes-done,omitempty"`
	BytesTotal int64              `json:"bytes-total,omitempty"`
}

// Transfers lists the transfers under way, the oldest first.
func (rs *Reports) Transfers() []resolve.Transfer { return rs.Resolver.Transfers() }

// Inspect returns the complete state of the agent, as JSON.
func (rs *Reports) Inspect() ([]byte, error) {
	v := inspection{Version: 1, Root: rs.Root, Tracker: rs.Tracker.Name(), Events: rs.Tracker.Events(), Services: rs.Services.Name(),
		Current: map[string]uint32{}, Indices: map[string][]protected{}, System: viewSystem(rs.System()), Machine: rs.Conditions(), Repositories: rs.Repositories.State(),
		Logind: rs.Logind != nil && rs.Logind.Available()}
	var err error
	if v.Instances, err = rs.State.Instances(); err != nil {
		return nil, err
	}
	for _, i := range v.Instances {
		if rev, _, err := rs.Links.Read(i.Instance); err == nil {
			v.Current[i.Instance] = rev
		}
	}
	v.Transfers = rs.Transfers()
	for _, name := range index.Names {
		v.Indices[name] = []protected{}
	}
	for _, r := range rs.Indices.Snapshot() {
		v.Indices[r.Index] = append(v.Indices[r.Index], protected{r.Package.String(), r.Holder, r.PID})
	}
	if v.Runs, err = rs.Tracker.Runs(); err != nil {
		return nil, err
	}
	for _, r := range rs.Engine.All() {
		v.Refreshes = append(v.Refreshes, refreshView{r, r.State(), r.WaitingFor, r.Unmet, r.Deadline, r.BytesDone, r.BytesTotal})
	}
	var last gc.Result
	if last, v.Collected = rs.Space.Last(); !v.Collected.IsZero() {
		v.Collection = &collection{last.Blobs, last.Packages, last.Bytes, last.Strays}
	}
	return json.MarshalIndent(v, "", "  ")
}
