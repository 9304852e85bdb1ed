package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// until is how far a refresh is followed.
type until int

const (
	untilWaiting until = iota // done, or it waits for running applications
	untilStarted              // return at once
	untilDone                 // done, after any wait for applications
	untilStuck                // done, or stuck reports that it needs intervention
)

// outcome is the last state of a followed refresh.
type outcome struct {
	path  dbus.ObjectPath
	props bus.RefreshProperties
}

// follower tracks refreshes by their signals. One goroutine uses it.
type follower struct {
	agent *agent
	sub   *bus.Subscription
	until until
	stuck func(bus.RefreshProperties) bool // of untilStuck
	show  output.Progress
	props map[dbus.ObjectPath]*followed
}

// followed is a refresh with its last known state.
type followed struct {
	bus.RefreshProperties
	asked    dbus.Sequence // earlier signals are older than RefreshProperties
	answered dbus.Sequence // earlier signals may be older
}

// follow calls start, and follows the refreshes that it returns, also if some others could
// not be started. It subscribes before it starts them, so that it misses no signal.
func (a *app) follow(ctx context.Context, u until, start func(context.Context, *agent) ([]dbus.ObjectPath, error)) ([]outcome, error) {
	return a.followWith(ctx, &follower{until: u, show: a.Progress()}, start)
}

func (a *app) followWith(ctx context.Context, f *follower, start func(context.Context, *agent) ([]dbus.ObjectPath, error)) ([]outcome, error) {
	defer f.show.Close()
	ag, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	dialling, cancel := context.WithTimeout(ctx, answerTime)
	sub, err := bus.Subscribe(dialling, ag.conn, bus.AgentName, bus.AgentPath)
	cancel()
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	call, done := a.patient(ctx)
	paths, failed := start(call, ag)
	done()
	if len(paths) == 0 {
		return nil, failed
	}
	f.agent, f.sub, f.props = ag, sub, map[dbus.ObjectPath]*followed{}
	for _, p := range paths {
		f.props[p] = &followed{}
		if err := f.read(ctx, p); err != nil && !errkind.Is(err, errkind.NotFound) {
			return nil, goesOn(ctx, output.T("refresh"), nil, err)
		}
	}
	var errs []error
	for _, err := range []error{failed, f.run(ctx)} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var out []outcome
	for _, p := range paths {
		out = append(out, outcome{p, f.props[p].RefreshProperties})
	}
	return out, output.Join(errs)
}

// read reads all properties of a refresh.
func (f *follower) read(ctx context.Context, path dbus.ObjectPath) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	props, at, err := bus.NewRefreshProxy(f.agent.conn, path).ReadAt(ctx)
	if err != nil {
		return err
	}
	*f.props[path] = followed{props, f.props[path].answered, at}
	f.show.Update(path, props)
	return nil
}

// settled reports whether all refreshes have come as far as until requires, and whether that
// is certain: a waiting refresh without running processes will usually continue soon.
func (f *follower) settled() (yes, certain bool) {
	certain = true
	for _, p := range f.props {
		switch {
		case output.Over(p.State) || p.State == output.Stuck:
		case f.until == untilStuck:
			if !f.stuck(p.RefreshProperties) {
				return false, false
			}
		case f.until != untilWaiting || p.State != "waiting":
			return false, false
		case len(p.Waiting) == 0 && !f.waitsWith(p):
			certain = false
		}
	}
	return true, certain
}

// waitsWith reports whether a refresh of an atomic group waits for another member.
func (f *follower) waitsWith(p *followed) bool {
	for _, q := range f.props {
		if q.State == "waiting" && len(q.Waiting) > 0 && slices.Contains(p.Together, q.Instance) {
			return true
		}
	}
	return false
}

// grace is how long a waiting refresh without running processes may take to continue. A held
// one does not continue.
const grace = 2 * time.Second

func (f *follower) run(ctx context.Context) error {
	if f.until == untilStarted {
		return nil
	}
	for {
		yes, certain := f.settled()
		if yes && certain {
			return nil
		}
		var enough <-chan time.Time
		if yes {
			enough = time.After(grace)
		}
		select {
		case <-enough:
			return nil
		case <-ctx.Done():
			what, names := f.what()
			return goesOn(ctx, what, names, ctx.Err())
		case sig, ok := <-f.sub.C:
			if !ok {
				return output.Error(errkind.Unavailable, "cannot follow the refresh any longer: the agent has left the bus").
					WithHint("it finishes or undoes what it had begun when it starts again; see `%s`", f.agent.status)
			}
			if err := f.signal(ctx, sig); err != nil {
				return err
			}
		}
	}
}

// what describes the followed refreshes, as in "installation of notes".
func (f *follower) what() (text string, instances []string) {
	var list []string
	for _, p := range f.props {
		if p.Instance != "" && !output.Over(p.State) {
			list = append(list, output.T("%[1]s of %[2]s", nounOf(p.Kind), p.Instance))
			instances = append(instances, p.Instance)
		}
	}
	slices.Sort(list)
	slices.Sort(instances)
	return output.Either(strings.Join(list, ", "), output.T("refresh")), instances
}

// signal applies a signal.
func (f *follower) signal(ctx context.Context, sig *dbus.Signal) error {
	if c, ok := bus.ParseChanged(sig); ok && c.Interface == bus.RefreshInterface {
		p := f.props[c.Path]
		if p == nil || sig.Sequence < p.asked {
			return nil
		}
		known := p.RefreshProperties
		if sig.Sequence < p.answered {
			// It is read once more: all earlier signals are certainly older then.
			// Of a refresh that has been removed by now, only the end matters.
			if err := f.read(ctx, c.Path); !errkind.Is(err, errkind.NotFound) {
				return err
			}
		}
		if err := p.Apply(c.Values); err != nil {
			return err
		}
		if output.Over(p.State) {
			return f.ended(ctx, c.Path, p.State, "")
		}
		if sig.Sequence < p.answered {
			p.RefreshProperties = known
			return nil
		}
		f.show.Update(c.Path, p.RefreshProperties)
		return nil
	}
	// A short refresh may be removed before it can be read. The properties of its first
	// signal are enough.
	if added, ok := bus.ParseAdded(sig); ok && f.props[added.Path] != nil && f.props[added.Path].ID == "" {
		return f.props[added.Path].Apply(added.Interfaces[bus.RefreshInterface])
	}
	if end, ok := bus.ParseManagerRefreshFinished(sig); ok && f.props[end.Refresh] != nil {
		return f.ended(ctx, end.Refresh, end.Result, end.Error)
	}
	if r, ok := bus.ParseRemoved(sig); ok && f.props[r.Path] != nil && !output.Over(f.props[r.Path].State) {
		return output.Error(errkind.Failed, "cannot determine how the refresh ended: the agent has no record of it")
	}
	return nil
}

// ended reads a refresh for the last time. If it has been removed, the properties of the
// signal are used.
func (f *follower) ended(ctx context.Context, path dbus.ObjectPath, state, text string) error {
	err := f.read(ctx, path)
	if err != nil && !errkind.Is(err, errkind.NotFound) {
		return err
	}
	p := f.props[path]
	if !output.Over(p.State) {
		p.State = state
	}
	if p.ErrorText == "" {
		p.ErrorText = text
	}
	f.show.Update(path, p.RefreshProperties)
	return nil
}

// failure returns the error of a refresh that has ended, or nil.
func failure(verb string, p bus.RefreshProperties) error {
	if p.State == "done" || !output.Over(p.State) {
		return nil
	}
	kind := errkind.Failed
	if name, ok := cutPrefix(p.ErrorName, errkind.Prefix); ok {
		kind = errkind.Kind(name)
	}
	text, hint := p.ErrorText, p.ErrorHint
	switch {
	case p.State == "cancelled":
		kind = errkind.Interrupted
		if text == "" {
			text = output.T("cannot %[1]s %[2]s: it was cancelled", verb, p.Instance)
		}
	case text == "":
		text = output.T("cannot %[1]s %[2]s: the agent gives no reason", verb, p.Instance)
	}
	if p.State == "undone" && hint == "" {
		hint = output.T("everything is as it was before")
	}
	if p.ErrorText == "" { // it is an error of this process
		return output.Failed(kind, text, hint, nil)
	}
	return &errkind.Error{Kind: kind, Text: text, Hint: hint, Err: errors.New(text)}
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return "", false
}

// refreshJSON is a refresh in JSON.
type refreshJSON struct {
	ID           string            `json:"id"`
	Kind         string            `json:"kind"`
	Instance     string            `json:"instance"`
	State        string            `json:"state"`
	Step         string            `json:"step,omitempty"`
	FromVersion  string            `json:"from-version,omitempty"`
	ToVersion    string            `json:"to-version,omitempty"`
	FromRevision uint32            `json:"from-revision,omitempty"`
	ToRevision   uint32            `json:"to-revision,omitempty"`
	Hash         string            `json:"hash,omitempty"`
	Urgency      string            `json:"urgency,omitempty"`
	Notes        string            `json:"notes,omitempty"`
	Since        *time.Time        `json:"since,omitempty"`
	Deadline     *time.Time        `json:"deadline,omitempty"`
	BytesDone    uint64            `json:"bytes-done"`
	BytesTotal   uint64            `json:"bytes-total"`
	BytesToFetch uint64            `json:"bytes-to-fetch,omitempty"`        // as determined before the first of them was fetched
	BytesToWrite uint64            `json:"bytes-to-write,omitempty"`        // space on the disk for them
	Speed        uint64            `json:"bytes-per-second,omitempty"`      // of the download, since it began
	BlocksMillis uint64            `json:"estimate-milliseconds,omitempty"` // how long launches may have to wait
	BytesToCopy  uint64            `json:"bytes-to-copy,omitempty"`
	Waiting      []processJSON     `json:"waiting"`
	Conditions   map[string]string `json:"conditions,omitempty"`
	Begins       *time.Time        `json:"download-begins,omitempty"` // of a large download that is announced first
	Error        *errorJSON        `json:"error,omitempty"`
}

type processJSON struct {
	PID     uint32 `json:"pid"`
	UID     uint32 `json:"uid"`
	Command string `json:"command"`
}

type errorJSON struct {
	Name string `json:"name"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

func processesJSON(ps []bus.Process) []processJSON {
	out := make([]processJSON, len(ps))
	for i, p := range ps {
		out[i] = processJSON(p)
	}
	return out
}

func toRefreshJSON(p bus.RefreshProperties) refreshJSON {
	r := refreshJSON{
		ID: p.ID, Kind: p.Kind, Instance: p.Instance, State: p.State, Step: p.Step,
		FromVersion: p.FromVersion, ToVersion: p.ToVersion, FromRevision: p.FromRevision, ToRevision: p.ToRevision,
		Hash: p.Hash, Urgency: p.Urgency, Notes: p.Notes, Since: output.Stamp(p.Since), Deadline: output.Stamp(p.Deadline),
		BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, BytesToFetch: p.BytesToFetch, BytesToWrite: p.BytesToWrite, Speed: p.Speed, BlocksMillis: p.Estimate / 1000, BytesToCopy: p.BytesToCopy, Waiting: processesJSON(p.Waiting), Conditions: p.Conditions, Begins: output.Stamp(p.DownloadBegins),
	}
	if p.ErrorText != "" || p.ErrorName != "" {
		r.Error = &errorJSON{p.ErrorName, p.ErrorText, p.ErrorHint}
	}
	return r
}
