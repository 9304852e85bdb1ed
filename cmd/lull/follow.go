package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/problem"
	bus "github.com/lull/lull/dbus"
)

// until says how long a refresh is followed.
type until int

const (
	untilWaiting until = iota // done, or it waits for running applications
	untilStarted              // not at all
	untilDone                 // done, however long the applications run
	untilStuck                // done, or stuck says that it cannot go on by itself
)

// outcome is how far a refresh came while it was followed.
type outcome struct {
	path  dbus.ObjectPath
	props bus.RefreshProperties
}

// follower keeps up with refreshes by their signals. One goroutine uses it.
type follower struct {
	agent *agent
	sub   *bus.Subscription
	until until
	stuck func(bus.RefreshProperties) bool // of untilStuck
	show  progress
	props map[dbus.ObjectPath]*followed
}

// followed is a refresh as far as it is known.
type followed struct {
	bus.RefreshProperties
	asked    dbus.Sequence // what came before this is older than RefreshProperties
	answered dbus.Sequence // what came before this may be older
}

// progress shows how refreshes come along.
type progress interface {
	update(dbus.ObjectPath, bus.RefreshProperties)
	close()
}

// follow has start called, and follows the refreshes that it returns, also if
// some of those it was to start have failed. It listens before it starts them,
// so that nothing is missed.
func (a *app) follow(ctx context.Context, u until, start func(context.Context, *agent) ([]dbus.ObjectPath, error)) ([]outcome, error) {
	return a.followWith(ctx, &follower{until: u, show: a.progress()}, start)
}

func (a *app) followWith(ctx context.Context, f *follower, start func(context.Context, *agent) ([]dbus.ObjectPath, error)) ([]outcome, error) {
	defer f.show.close()
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
	paths, failed := start(ctx, ag)
	if len(paths) == 0 {
		return nil, failed
	}
	f.agent, f.sub, f.props = ag, sub, map[dbus.ObjectPath]*followed{}
	for _, p := range paths {
		f.props[p] = &followed{}
		if err := f.read(ctx, p); err != nil && !problem.Is(err, problem.NotFound) {
			return nil, err
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
	return out, join(errs)
}

// read asks for all of a refresh.
func (f *follower) read(ctx context.Context, path dbus.ObjectPath) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	props, at, err := bus.NewRefreshProxy(f.agent.conn, path).ReadAt(ctx)
	if err != nil {
		return err
	}
	*f.props[path] = followed{props, f.props[path].answered, at}
	f.show.update(path, props)
	return nil
}

// settled says whether all are as far as they are followed, and whether that
// is certain: a refresh that waits for nobody is mostly about to go on.
func (f *follower) settled() (yes, certain bool) {
	certain = true
	for _, p := range f.props {
		switch {
		case over(p.State):
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

// waitsWith says whether a refresh of an atomic group waits for another member.
func (f *follower) waitsWith(p *followed) bool {
	for _, q := range f.props {
		if q.State == "waiting" && len(q.Waiting) > 0 && slices.Contains(p.Together, q.Instance) {
			return true
		}
	}
	return false
}

// grace is how long a refresh that waits for nobody is given to go on. One
// that is held does not.
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
			return problem.New(problem.Interrupted, "cannot follow the refresh any longer: interrupted").
				WithHint("it goes on; `lull pending` and `lull monitor` show it, `lull refresh --cancel` gives it up")
		case sig, ok := <-f.sub.C:
			if !ok {
				return problem.New(problem.Unavailable, "cannot follow the refresh any longer: the agent has left the bus").
					WithHint("it finishes or undoes what it had begun when it starts again; see `systemctl status lulld`")
			}
			if err := f.signal(ctx, sig); err != nil {
				return err
			}
		}
	}
}

// signal takes over what a signal says.
func (f *follower) signal(ctx context.Context, sig *dbus.Signal) error {
	if c, ok := bus.ParseChanged(sig); ok && c.Interface == bus.RefreshInterface {
		p := f.props[c.Path]
		if p == nil || sig.Sequence < p.asked {
			return nil
		}
		known := p.RefreshProperties
		if sig.Sequence < p.answered {
			// Ask again: then what came until now is certainly older. Of a
			// refresh that is gone by now, only the end matters.
			if err := f.read(ctx, c.Path); !problem.Is(err, problem.NotFound) {
				return err
			}
		}
		if err := p.Apply(c.Values); err != nil {
			return err
		}
		if over(p.State) {
			return f.ended(ctx, c.Path, p.State, "")
		}
		if sig.Sequence < p.answered {
			p.RefreshProperties = known
			return nil
		}
		f.show.update(c.Path, p.RefreshProperties)
		return nil
	}
	// A refresh that is short may be gone before it could be asked: what was
	// said of it at its beginning is enough.
	if added, ok := bus.ParseAdded(sig); ok && f.props[added.Path] != nil && f.props[added.Path].ID == "" {
		return f.props[added.Path].Apply(added.Interfaces[bus.RefreshInterface])
	}
	if end, ok := bus.ParseManagerRefreshFinished(sig); ok && f.props[end.Refresh] != nil {
		return f.ended(ctx, end.Refresh, end.Result, end.Error)
	}
	if r, ok := bus.ParseRemoved(sig); ok && f.props[r.Path] != nil && !over(f.props[r.Path].State) {
		return problem.New(problem.Failed, "cannot tell how the refresh has ended: the agent has forgotten it")
	}
	return nil
}

// ended reads a refresh for the last time. It may be gone already: then what
// the signal says has to do.
func (f *follower) ended(ctx context.Context, path dbus.ObjectPath, state, text string) error {
	err := f.read(ctx, path)
	if err != nil && !problem.Is(err, problem.NotFound) {
		return err
	}
	p := f.props[path]
	if !over(p.State) {
		p.State = state
	}
	if p.ErrorText == "" {
		p.ErrorText = text
	}
	f.show.update(path, p.RefreshProperties)
	return nil
}

// failure is the error with which a refresh has ended, or nil.
func failure(verb string, p bus.RefreshProperties) error {
	if p.State == "done" || !over(p.State) {
		return nil
	}
	kind := problem.Failed
	if name, ok := cutPrefix(p.ErrorName, problem.Prefix); ok {
		kind = problem.Kind(name)
	}
	text, hint := p.ErrorText, p.ErrorHint
	switch {
	case p.State == "cancelled":
		kind = problem.Interrupted
		if text == "" {
			text = "cannot " + verb + " " + p.Instance + ": it was cancelled"
		}
	case text == "":
		text = "cannot " + verb + " " + p.Instance + ": the agent does not say why"
	}
	if p.State == "undone" && hint == "" {
		hint = "everything is as it was before"
	}
	return &problem.Error{Kind: kind, Text: text, Hint: hint, Err: errors.New(text)}
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
	Waiting      []processJSON     `json:"waiting"`
	Conditions   map[string]string `json:"conditions,omitempty"`
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
		Hash: p.Hash, Urgency: p.Urgency, Notes: p.Notes, Since: stamp(p.Since), Deadline: stamp(p.Deadline),
		BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, Waiting: processesJSON(p.Waiting), Conditions: p.Conditions,
	}
	if p.ErrorText != "" || p.ErrorName != "" {
		r.Error = &errorJSON{p.ErrorName, p.ErrorText, p.ErrorHint}
	}
	return r
}
