package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// answerTime bounds the agent's reply to a call that only reads.
const answerTime = 30 * time.Second

// agent is a connection to the agent.
type agent struct {
	conn    *dbus.Conn
	manager bus.ManagerProxy
	space   bus.SpaceProxy
	status  string // the command that shows its unit
}

// dial connects to the agent's bus. The agent need not be running.
func (a *app) dial(ctx context.Context) (*agent, error) { return a.dialWith(ctx, bus.Dial) }

// dialFDs is dial for calls that return descriptors.
func (a *app) dialFDs(ctx context.Context) (*agent, error) {
	return a.dialWith(ctx, func(ctx context.Context, address string, system bool) (*dbus.Conn, error) {
		return bus.DialFDs(ctx, address, system)
	})
}

func (a *app) dialWith(ctx context.Context, dial func(context.Context, string, bool) (*dbus.Conn, error)) (*agent, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	address, system := a.bus, true
	if a.user && address == "" {
		address, system = a.sessionBus, false
	}
	conn, err := dial(ctx, address, system)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, func() { conn.Close() })
	ag := &agent{conn, bus.NewManagerProxy(conn, bus.AgentPath), bus.NewSpaceProxy(conn, bus.AgentPath), a.statusCommand()}
	a.AskSentences = func(text string) map[string]errkind.Sentence { return ag.sentences(text) }
	a.sayBroken(ctx, ag)
	return ag, nil
}

// sentenceTime bounds the question how a text was made. Without an answer it stays English.
const sentenceTime = 2 * time.Second

// sentences asks the agent how a text was made, for its translation.
func (ag *agent) sentences(text string) map[string]errkind.Sentence {
	ctx, cancel := context.WithTimeout(context.Background(), sentenceTime)
	defer cancel()
	list, err := ag.manager.Sentences(ctx, []string{text})
	if err != nil { // an older agent, or none any more
		return nil
	}
	known := map[string]errkind.Sentence{}
	for _, s := range list {
		known[s.Text] = errkind.Sentence{Message: s.Message, Parts: s.Parts}
	}
	return known
}

// sayBroken warns once, beside any other output, about the administrator's files that cannot
// be used. Commands whose own output reports them set saidBroken. If the agent cannot be
// asked, the next call reports that.
func (a *app) sayBroken(ctx context.Context, ag *agent) {
	if a.saidBroken || !a.ran { // not while a shell completes words
		return
	}
	a.saidBroken = true
	text, err := ag.manager.GetPolicyError(ctx)
	if err != nil || text == "" {
		return
	}
	a.Warn(output.T("not all of the configuration can be used: %s", a.Foreign(text)),
		output.T("the previous configuration stays in force; `lull policy check` lists what is wrong, `lull policy reload` reads it again"))
}

// ask connects and calls f for a request that only reads.
func (a *app) ask(ctx context.Context, f func(context.Context, *agent) error) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return f(ctx, ag)
}

// change connects and calls f for a request that changes something. It has no time limit,
// because the user may have to type a password.
func (a *app) change(ctx context.Context, f func(context.Context, *agent) error) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	call, done := a.patient(ctx)
	defer done()
	return f(call, ag)
}

// self returns the instance of this process' run. The agent checks the cgroup. Any process
// can change the environment, so it is only compared.
func (ag *agent) self(ctx context.Context) (string, error) {
	instance, _, err := ag.manager.Self(ctx)
	if err != nil {
		return "", err
	}
	if said := os.Getenv("LULL_INSTANCE"); said != "" && said != instance {
		return "", output.Error(errkind.Invalid, "cannot determine which application asks: LULL_INSTANCE is %s, but this process is in a run of %s", output.OneLine(said), instance)
	}
	return instance, nil
}

// snapshot is the set of installed packages and current refreshes.
type snapshot struct {
	packages  []bus.PackageProperties // by instance
	refreshes map[dbus.ObjectPath]bus.RefreshProperties
}

func (ag *agent) snapshot(ctx context.Context) (*snapshot, error) {
	objects, err := bus.ManagedObjects(ctx, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return nil, err
	}
	s := &snapshot{refreshes: map[dbus.ObjectPath]bus.RefreshProperties{}}
	for path, object := range objects {
		if values, ok := object[bus.PackageInterface]; ok {
			var p bus.PackageProperties
			if err := p.Apply(values); err != nil {
				return nil, err
			}
			s.packages = append(s.packages, p)
		}
		if values, ok := object[bus.RefreshInterface]; ok {
			var r bus.RefreshProperties
			if err := r.Apply(values); err != nil {
				return nil, err
			}
			s.refreshes[path] = r
		}
	}
	slices.SortFunc(s.packages, func(p, q bus.PackageProperties) int { return cmp.Compare(p.Instance, q.Instance) })
	return s, nil
}

// overview is snapshot for callers that need of each package only its names, version, revision,
// channel and state, of its services those that have failed, and of the refreshes those that
// have not ended. It is much cheaper: the bus
// carries no names of properties, and the agent reads no processes.
func (ag *agent) overview(ctx context.Context) (*snapshot, error) {
	list, refreshes, err := ag.manager.ListInstalled(ctx)
	if bus.IsUnknown(err) || len(refreshes) > fewRefreshes {
		return ag.snapshot(ctx)
	}
	if err != nil {
		return nil, err
	}
	s := &snapshot{refreshes: map[dbus.ObjectPath]bus.RefreshProperties{}}
	for _, l := range list {
		name, _ := manifest.SplitInstance(l.Instance)
		p := bus.PackageProperties{
			Instance: l.Instance, Name: name, Title: l.Title, Summary: l.Summary, Version: l.Version, Revision: l.Revision, Channel: l.Channel,
			Apps: l.Apps, Running: l.Running, Refresh: l.Refresh, HeldUntil: l.HeldUntil, UndoneVersion: l.UndoneVersion, NextTry: l.NextTry,
		}
		for _, name := range l.FailedServices {
			p.Services = append(p.Services, bus.ServiceState{Name: name, State: "failed"})
		}
		s.packages = append(s.packages, p)
	}
	for _, path := range refreshes {
		r, err := bus.NewRefreshProxy(ag.conn, path).Properties(ctx)
		if errkind.Is(err, errkind.NotFound) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		s.refreshes[path] = r
	}
	return s, nil
}

// fewRefreshes is the number of refreshes, or of packages, up to which asking for each is
// cheaper than asking for all objects.
const fewRefreshes = 16

// detailed is overview with all properties of the packages that want selects: few of many.
func (ag *agent) detailed(ctx context.Context, want func(*snapshot) func(bus.PackageProperties) bool) (*snapshot, error) {
	s, err := ag.overview(ctx)
	if err != nil {
		return nil, err
	}
	return ag.details(ctx, s, want(s))
}

// details adds all properties of the selected packages to an overview. If they are many, or
// one has been removed meanwhile, it reads everything again.
func (ag *agent) details(ctx context.Context, s *snapshot, selects func(bus.PackageProperties) bool) (*snapshot, error) {
	var wanted []int
	for i, p := range s.packages {
		if selects(p) {
			wanted = append(wanted, i)
		}
	}
	if len(wanted) > fewRefreshes {
		return ag.snapshot(ctx)
	}
	for _, i := range wanted {
		p, err := bus.NewPackageProxy(ag.conn, bus.PackagePath(s.packages[i].Instance)).Properties(ctx)
		if errkind.Is(err, errkind.NotFound) {
			return ag.snapshot(ctx)
		}
		if err != nil {
			return nil, err
		}
		s.packages[i] = p
	}
	return s, nil
}

// thatIs selects the package that a typed name means, for detailed.
func thatIs(typed string) func(*snapshot) func(bus.PackageProperties) bool {
	return func(s *snapshot) func(bus.PackageProperties) bool {
		name, _, err := resolve(typed, s.candidates())
		return func(p bus.PackageProperties) bool { return err == nil && p.Instance == name }
	}
}

// notable selects the packages with a hold or an undone update, for detailed.
func notable(*snapshot) func(bus.PackageProperties) bool {
	return func(p bus.PackageProperties) bool { return p.HeldUntil != 0 || p.UndoneVersion != "" }
}

// find returns one instance.
func (s *snapshot) find(instance string) (bus.PackageProperties, error) {
	for _, p := range s.packages {
		if p.Instance == instance {
			return p, nil
		}
	}
	return bus.PackageProperties{}, output.Error(errkind.NotFound, "cannot find %s: it is not installed", instance).
		WithHint("%s", did(instance, s.candidates(), output.T("`lull list` shows what is")))
}
