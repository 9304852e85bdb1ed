package agentclient

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/sessionjobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is as much of an agent as the relay sees of it.
type agent struct {
	bus.Manager // every other method: not called
	t           *testing.T
	server      *bus.Server

	mu      sync.Mutex
	pending []bus.PendingRefresh
	helpers []string
	answers []string
	refuse  bool
	done    chan string
	stand   []string // the reported states of the sessions
	made    []bus.Sentence
}

func newAgent(t *testing.T, address string) *agent {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := bus.Serve(ctx, address, true)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, server: s, done: make(chan string, 8)}
	t.Cleanup(func() { s.Close() })
	if err := s.Export(bus.AgentPath, bus.ExportManager(a, bus.ManagerProperties{Root: "/root", RunDir: "/run-dir"}), bus.ExportHelper()); err != nil {
		t.Fatal(err)
	}
	if err := s.RequestName(bus.AgentName); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) Pending(bus.Caller) ([]bus.PendingRefresh, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse {
		return nil, io.ErrUnexpectedEOF
	}
	return a.pending, nil
}

func (a *agent) RegisterHelper(c bus.Caller, session map[string]dbus.Variant) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse {
		return io.ErrUnexpectedEOF
	}
	var list []bus.HelperSession
	if err := session["sessions"].Store(&list); err != nil {
		return err
	}
	a.stand = append(a.stand, fmt.Sprint("at first ", list))
	a.helpers = append(a.helpers, c.Sender)
	return nil
}

func (a *agent) SetSessions(_ bus.Caller, list []bus.HelperSession) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stand = append(a.stand, fmt.Sprint(list))
	a.done <- "sessions"
	return nil
}

func (a *agent) Answer(_ bus.Caller, id, action string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers = append(a.answers, id+" "+action)
	return nil
}

func (a *agent) Sentences(bus.Caller, []string) ([]bus.Sentence, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.made, nil
}

func (a *agent) WorkDone(_ bus.Caller, id, instance, phase, text string) error {
	a.done <- id + " " + instance + " " + phase + " " + text
	return nil
}

func (a *agent) helper() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.helpers) == 0 {
		return ""
	}
	return a.helpers[len(a.helpers)-1]
}

func (a *agent) send(s bus.Signal) {
	a.t.Helper()
	if err := a.server.SendTo(a.helper(), bus.AgentPath, s); err != nil {
		a.t.Fatal(err)
	}
}

type rig struct {
	*Relay
	t      *testing.T
	events chan notify.Event
	orders chan sessionjobs.Order
}

func run(t *testing.T, address string) *rig { t.Helper(); return runWith(t, Options{Address: address}) }

func runWith(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{t: t, events: make(chan notify.Event, 64), orders: make(chan sessionjobs.Order, 64)}
	ctx, cancel := context.WithCancel(context.Background())
	o.Work, o.Log = func(o sessionjobs.Order) { r.orders <- o }, slog.New(slog.NewTextHandler(io.Discard, nil))
	r.Relay = New(o, func(e notify.Event) {
		select {
		case r.events <- e:
		case <-ctx.Done():
		}
	})
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- r.Run(ctx, sync.OnceFunc(func() { close(ready) })) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("it is never ready")
	}
	return r
}

func wait[E notify.Event](r *rig) E {
	r.t.Helper()
	select {
	case e := <-r.events:
		if e, ok := e.(E); ok {
			return e
		}
		r.t.Fatalf("%#v", e)
	case <-time.After(10 * time.Second):
	}
	var e E
	r.t.Fatalf("no %T", e)
	return e
}

func TestAgentComesAndGoes(t *testing.T) {
	address := bustest.Start(t)
	r := run(t, address)
	r.Do(notify.Ask{})
	wait[notify.AskFailed](r)
	for range 2 {
		a := newAgent(t, address)
		wait[notify.AgentUp](r)
		if got := r.Places(); got != (Places{"/root", "/run-dir"}) {
			t.Errorf("got %+v, want %v", got, (Places{"/root", "/run-dir"}))
		}
		a.mu.Lock()
		a.pending = []bus.PendingRefresh{{ID: "r1", Instance: "firefox", Name: "Firefox", ToRevision: 2, Since: 1e15, Deadline: math.MaxUint64, DBusName: "org.mozilla.firefox", Hook: true,
			Urgency: "security", Processes: []bus.Process{{PID: 7, UID: uint32(os.Getuid()), Command: "f"}}}}
		a.mu.Unlock()
		r.Do(notify.Ask{})
		got := wait[notify.Listed](r).List
		if len(got) != 1 || got[0].ID != "r1" || !got[0].Since.Equal(time.UnixMicro(1e15)) || !got[0].Deadline.IsZero() ||
			len(got[0].Processes) != 1 || got[0].Processes[0].PID != 7 || got[0].DBusName != "org.mozilla.firefox" || !got[0].QuitHook || got[0].PendingHook {
			t.Errorf("the pending refreshes are %+v, want r1 alone since %v, without a deadline, with process 7, the D-Bus name org.mozilla.firefox and a quit hook, but no pending hook", got, time.UnixMicro(1e15))
		}
		a.send(bus.HelperPending{Refresh: a.pending[0]})
		wait[notify.Changed](r)
		a.send(bus.HelperWithdrawn{ID: "r1", Reason: "exited"})
		if e := wait[notify.Withdrawn](r); e.ID != "r1" || e.Reason != "exited" {
			t.Errorf("got %+v, want %q and reason %q", e, "r1", "exited")
		}
		a.send(bus.HelperUpdated{Refresh: bus.UpdatedRefresh{ID: "r1", Instance: "firefox", ToVersion: "153"}})
		if e := wait[notify.Updated](r); e.Done.Instance != "firefox" || e.Done.ToVersion != "153" {
			t.Errorf("got %+v, want instance %q and to version %q", e, "firefox", "153")
		}
		a.server.Emit(bus.AgentPath, bus.ManagerRefreshFinished{Refresh: "/", Instance: "firefox", Result: "undone"})
		if e := wait[notify.Finished](r); e.Result != "undone" {
			t.Errorf("got %+v, want result %q", e, "undone")
		}
		r.Do(notify.Answer{ID: "r1", Action: "later"})
		r.Do(notify.Ask{})
		wait[notify.Listed](r)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			a.mu.Lock()
			n := len(a.answers)
			a.mu.Unlock()
			if n == 1 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the answer has not arrived")
			}
		}
		a.server.Close()
		wait[notify.AgentDown](r)
	}
}

// TestSessions: a change of the sessions' state is reported, in order, and to
// a new agent at once.
func TestSessions(t *testing.T) {
	address := bustest.Start(t)
	a := newAgent(t, address)
	r := run(t, address)
	wait[notify.AgentUp](r)
	one := []bus.HelperSession{{ID: "1", Active: true}}
	for _, list := range [][]bus.HelperSession{one, one, {{ID: "1", Active: true, Locked: true}, {ID: "2", Idle: true, DoNotDisturb: true}}, {}} {
		before := len(a.told())
		r.SetSessions(list)
		if last := fmt.Sprint(list); before > 0 && a.told()[before-1] == last {
			continue // nothing new
		}
		<-a.done
	}
	want := []string{"at first []", "[{1 true false false false false}]", "[{1 true true false false false} {2 false false true true false}]", "[]"}
	if got := a.told(); !slices.Equal(got, want) {
		t.Errorf("told %q\nwant %q", got, want)
	}
	r.SetSessions(one)
	<-a.done
	a.server.Close()
	wait[notify.AgentDown](r)
	next := newAgent(t, address)
	wait[notify.AgentUp](r)
	if got := next.told(); !slices.Equal(got, []string{"at first [{1 true false false false false}]"}) {
		t.Errorf("the next agent was told %q; want %v", got, []string{"at first [{1 true false false false false}]"})
	}
}

func (a *agent) told() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.stand)
}

// TestWork: an order arrives as it was given, and its answer goes back.
func TestWork(t *testing.T) {
	address := bustest.Start(t)
	a := newAgent(t, address)
	r := run(t, address)
	wait[notify.AgentUp](r)
	a.send(bus.HelperWork{ID: "7", Phase: "enter",
		Work:     bus.SessionWork{Instance: "firefox", Root: "/root", RunDir: "/run-dir", FromRevision: 1, ToRevision: 2, Data: true, Notifying: []string{"two"}},
		Services: []bus.SessionService{{Name: "one", StopSignal: "SIGUSR1", StopTimeout: 1_500_000}, {Name: "two", StopTimeout: math.MaxUint64}}})
	o := <-r.orders
	want := sessionjobs.Order{ID: "7", Phase: "enter", Instance: "firefox", Root: "/root", RunDir: "/run-dir", From: 1, To: 2, Data: true,
		Services: []sessionjobs.Service{{Name: "one", StopSignal: "SIGUSR1", StopTimeout: 1500 * time.Millisecond}, {Name: "two", StopTimeout: 24 * time.Hour, Notifies: true}}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
	r.Do(WorkDone{Order: o})
	r.Do(WorkDone{Order: o, Err: io.ErrUnexpectedEOF})
	got := []string{<-a.done, <-a.done}
	slices.Sort(got)
	if !slices.Equal(got, []string{"7 firefox enter ", "7 firefox enter unexpected EOF"}) {
		t.Errorf("got %q, want %v", got, []string{"7 firefox enter ", "7 firefox enter unexpected EOF"})
	}
}

func TestAgentThatRefuses(t *testing.T) {
	address := bustest.Start(t)
	a := newAgent(t, address)
	a.mu.Lock()
	a.refuse = true
	a.mu.Unlock()
	r := run(t, address)
	wait[notify.AgentUp](r)
	r.Do(notify.Ask{})
	wait[notify.AskFailed](r)
	a.mu.Lock()
	a.refuse = false
	a.mu.Unlock()
	r.Do(notify.Ask{})
	wait[notify.Listed](r)
	if a.helper() == "" {
		t.Error("it is never registered")
	}
}

// Only signals of the agent, with the right types, are accepted.
func TestForgedSignals(t *testing.T) {
	address := bustest.Start(t)
	a := newAgent(t, address)
	r := run(t, address)
	wait[notify.AgentUp](r)
	liar, err := bus.Serve(context.Background(), address, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { liar.Close() })
	for _, s := range []bus.Signal{
		bus.HelperPending{Refresh: bus.PendingRefresh{ID: "x"}}, bus.HelperWithdrawn{ID: "x"},
		bus.HelperUpdated{}, bus.ManagerRefreshFinished{Refresh: "/"}, bus.HelperWork{ID: "x"},
	} {
		liar.SendTo(a.helper(), bus.AgentPath, s)
		liar.Emit(bus.AgentPath, s)
		a.server.SendTo(a.helper(), "/elsewhere", s)
	}
	for _, member := range []string{"Pending", "Withdrawn", "Updated", "Work", "Nonsense"} {
		for _, body := range [][]any{nil, {uint32(1)}, {"x"}, {map[string]dbus.Variant{"id": dbus.MakeVariant(uint32(1))}}, {"x", "y", "z"}} {
			a.server.Conn().Emit(bus.AgentPath, bus.HelperInterface+"."+member, body...)
			m := &dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldDestination: dbus.MakeVariant(a.helper()), dbus.FieldPath: dbus.MakeVariant(bus.AgentPath),
				dbus.FieldInterface: dbus.MakeVariant(bus.HelperInterface), dbus.FieldMember: dbus.MakeVariant(member),
			}}
			if len(body) > 0 {
				m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
			}
			a.server.Conn().Send(m, make(chan *dbus.Call, 1))
		}
	}
	a.send(bus.HelperWithdrawn{ID: "real", Reason: "held"})
	if e := wait[notify.Withdrawn](r); e.ID != "real" {
		t.Errorf("believed: got %+v, want %q", e, "real")
	}
	select {
	case o := <-r.orders:
		t.Errorf("believed: %+v", o)
	default:
	}
}

func TestNoBus(t *testing.T) {
	r := run(t, "unix:path=/nonexistent/bus")
	r.Do(notify.Ask{})
	wait[notify.AskFailed](r)
}

func TestWhen(t *testing.T) {
	for in, want := range map[uint64]time.Time{
		0: {}, math.MaxUint64: {}, math.MaxInt64: {}, 1: time.UnixMicro(1), 1e15: time.UnixMicro(1e15),
	} {
		if got := when(in); !got.Equal(want) {
			t.Errorf("when(%d) = %v, want %v", in, got, want)
		}
	}
}

// A user is notified of applications that run in this session, and of no
// refresh that waits for something else.
func TestOnlyWhatRunsHere(t *testing.T) {
	me := uint32(os.Getuid())
	run := func(pid, uid uint32) []bus.Process { return []bus.Process{{PID: pid, UID: uid}} }
	list := []bus.PendingRefresh{
		{Instance: "here", Processes: append(run(9, me), run(7, me)...)}, {Instance: "elsewhere", Processes: run(9, me)},
		{Instance: "another's", Processes: run(7, me+1)}, {Instance: "nobody's"}, {Instance: "held", HeldUntil: 1, Processes: run(7, me)},
	}
	r := New(Options{Here: func(pid uint32) bool { return pid == 7 }}, nil)
	if got := r.pendings(list); len(got) != 1 || got[0].Instance != "here" || len(got[0].Processes) != 2 {
		t.Errorf("got %+v, want 1 of them, instance %q and 2 processes", got, "here")
	}
	if got := New(Options{}, nil).pendings(list); len(got) != 2 {
		t.Errorf("got %+v, want 2 of them", got)
	}
}

// TestBackgroundProcesses: an application is in the background if each of its processes is
// a background program, or another program that one has started.
func TestBackgroundProcesses(t *testing.T) {
	me := uint32(os.Getuid())
	r := New(Options{
		App:  func(pid uint32) string { return map[uint32]string{1: "sync", 2: "editor"}[pid] },
		Look: func(_ string, pid uint32) (there, other bool) { return true, pid == 4 },
	}, nil)
	for _, c := range []struct {
		apps []string
		pids []uint32
		want bool
	}{
		{[]string{"sync"}, []uint32{1}, true}, {[]string{"sync"}, []uint32{1, 4}, true}, {nil, []uint32{1}, false},
		{[]string{"sync"}, []uint32{1, 2}, false}, {[]string{"sync"}, []uint32{1, 3}, false},
	} {
		p := bus.PendingRefresh{ID: "1", Instance: "a", BackgroundApps: c.apps, RestartBackground: true}
		for _, pid := range c.pids {
			p.Processes = append(p.Processes, bus.Process{PID: pid, UID: me})
		}
		got := r.pendings([]bus.PendingRefresh{p})
		if len(got) != 1 || got[0].Background != c.want || !got[0].RestartBackground {
			t.Errorf("with the background apps %q and the processes %v: got %+v, want one that restarts its background, Background %v", c.apps, c.pids, got, c.want)
		}
	}
}

func TestOnBroker(t *testing.T) { bustest.OnBroker(t) }
