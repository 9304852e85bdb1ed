package hold_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit = 30 * time.Second
)

// scene is a world with polkit; version 1 is installed and version 2 is
// published. ann and bob are users, carl may administrate by polkit's rules.
type scene struct {
	*rig.Scene
	ann, bob, carl *rig.Actor
}

const rules = `polkit.addRule(function(action, subject) {
	if (action.id == "org.lull.hold-others" && subject.user == "games") { return polkit.Result.YES; }
});
`

func set(t *testing.T, policy, urgency string) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "cc", "setpriv")
	require.File(t, "/usr/lib/polkit-1/polkitd")
	s := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll"}, Policy: policy})}
	s.ann, s.bob, s.carl = s.Ordinary("nobody"), s.Ordinary("daemon"), s.Ordinary("games")
	for _, v := range []string{sample.V1, sample.V2} {
		sample.Write(s, s.Path(v), v)
	}
	s.Publish(s.Path(sample.V1))
	s.StartPolkit(rules)
	s.Begin()
	s.MustLull("install", sample.Name)
	s.Publish(s.Path(sample.V2), "--urgency", urgency)
	return s
}

func (s *scene) ok(as *rig.Actor, args ...string) string {
	s.Helper()
	r := as.Lull(args...)
	if r.Code != 0 {
		s.Fatalf("%s: %v; want exit status 0", as.Name, r)
	}
	return r.Stdout
}

// refused checks how a user is refused.
func (s *scene) refused(code int, text, hint string, as *rig.Actor, args ...string) {
	s.Helper()
	s.Refused(as.Lull(args...), code, text, hint)
}

// untilHeld waits until the refresh to version 2 is held and returns it.
func (s *scene) untilHeld() (o rig.Object) {
	s.Helper()
	s.Until("the refresh waits for a hold", limit, func() (bool, string) {
		o, _ = s.API.Refresh(sample.Name, sample.V2)
		return o.Str("State") == "waiting" && o.Str("Step") == "wait", o.Str("State") + " at " + o.Str("Step")
	})
	return o
}

type held struct {
	Package struct {
		Held *struct {
			Until  time.Time
			By     string
			Reason string
		}
		Holds []struct {
			UID           int
			By            string
			Since, Until  time.Time
			Administrator bool
			Reason        string
		}
	}
}

func (s *scene) holds() (h held) {
	s.Helper()
	if err := json.Unmarshal([]byte(s.ok(s.bob, "--json", "status", sample.Name)), &h); err != nil {
		s.Fatalf("%v", err)
	}
	return h
}

func (h held) String() string {
	var list []string
	for _, x := range h.Package.Holds {
		list = append(list, fmt.Sprintf("%s/%d/%v/%s", x.By, x.UID, x.Administrator, x.Reason))
	}
	return strings.Join(list, " ")
}

// around reports whether t is about so long after now.
func around(t time.Time, d time.Duration) bool {
	off := time.Until(t) - d
	return off < time.Minute && off > -10*time.Minute
}

const day = 24 * time.Hour

// TestTwoUsers: each holds for himself, the longest counts, each ends by itself.
func TestTwoUsers(t *testing.T) {
	s := set(t, "", "medium")
	if out := s.ok(s.ann, "hold", "--for", "2d", "--reason", "exam", sample.Name); !strings.HasPrefix(out, sample.Name+" is held until ") {
		t.Errorf("got %q; want output that begins with %q", out, sample.Name+" is held until ")
	}
	s.ok(s.bob, "hold", "--for", "3d", sample.Name)
	if h := s.holds(); h.String() != "daemon/1/false/ nobody/65534/false/exam" || h.Package.Held.By != "daemon" || !around(h.Package.Held.Until, 3*day) {
		t.Errorf("held: got %+v, want the holds of daemon and nobody (exam), that of daemon for 3 days in force", h)
	}
	if r := s.Lull("refresh", sample.Name); r.Code != 75 || !strings.Contains(r.Stderr, "is held") {
		t.Errorf("refresh: got %v, want exit status 75 and %q in the error output", r, "is held")
	}
	s.untilHeld()
	// Renewing changes nothing about the bound, and replaces the own hold alone.
	s.ok(s.ann, "hold", "--for", "1d", "--reason", "exam", sample.Name)
	if h := s.holds(); h.String() != "daemon/1/false/ nobody/65534/false/exam" || !around(h.Package.Holds[1].Until, day) {
		t.Errorf("after renewal: got %+v, want the holds of daemon and nobody (exam), that of nobody for 1 day", h)
	}
	for _, as := range []*rig.Actor{s.ann, s.Admin} {
		if out := s.ok(as, "pending"); !strings.Contains(out, "waits for:    the end of a hold\n") || !strings.Contains(out, "by daemon\n") {
			t.Errorf("pending of %s: %s; want %q in the output and %q in the output", as.Name, out, "waits for:    the end of a hold\n", "by daemon\n")
		}
	}
	if out := s.ok(s.ann, "list"); !strings.Contains(out, sample.V2+" waits, held until ") {
		t.Errorf("list: got %s, want %q in the output", out, sample.V2+" waits, held until ")
	}
	out := s.ok(s.ann, "status", sample.Name)
	if !strings.Contains(out, "by daemon\n") || !strings.Contains(out, "by nobody: exam\n") {
		t.Errorf("status: got %s, want %q in the output and %q in the output", out, "by daemon\n", "by nobody: exam\n")
	}
	if out := s.ok(s.bob, "unhold", sample.Name); !strings.HasPrefix(out, sample.Name+" is not held any longer by you; nobody holds it until ") {
		t.Errorf("unhold: got %q, want output that begins with %q", out, sample.Name+" is not held any longer by you; nobody holds it until ")
	}
	if h := s.holds(); h.String() != "nobody/65534/false/exam" {
		t.Errorf("after an unhold of daemon: held: got %v, want nobody/65534/false/exam", h)
	}
	end := s.holds().Package.Held.Until.Local().Format("2006-01-02 15:04")
	s.refused(77, "cannot end the hold on "+sample.Name+": nobody holds it until "+end,
		"it ends by itself; before that only nobody and administrators can end it", s.bob, "unhold", sample.Name)
	s.StopAgent() // holds are remembered
	s.StartAgent()
	if h := s.holds(); h.String() != "nobody/65534/false/exam" || s.Version(sample.Name) != sample.V1 {
		t.Errorf("after a restart: got the holds %v and version %s, want nobody/65534/false/exam and %s", h, s.Version(sample.Name), sample.V1)
	}
	if out := s.ok(s.ann, "unhold", sample.Name); out != sample.Name+" is not held any longer\n" {
		t.Errorf("unhold: %q, want %v", out, sample.Name+" is not held any longer\n")
	}
	s.UntilVersion(sample.Name, sample.V2)
	if out := s.ok(s.ann, "unhold", sample.Name); out != sample.Name+" is not held any longer\n" {
		t.Errorf("releasing a hold again: %q, want %v", out, sample.Name+" is not held any longer\n")
	}
}

// TestHoldsEnd: a hold ends at its time, and the refresh goes on by itself.
func TestHoldsEnd(t *testing.T) {
	s := set(t, "", "medium")
	s.ok(s.ann, "hold", "--for", "10s", sample.Name)
	end := s.holds().Package.Held.Until
	s.Lull("refresh", sample.Name)
	if v := s.Version(sample.Name); v == sample.V2 && time.Now().Before(end) {
		t.Error("it was not held")
	}
	s.UntilVersion(sample.Name, sample.V2)
	if h := s.holds(); h.Package.Held != nil || len(h.Package.Holds) > 0 {
		t.Errorf("still held: %+v", h)
	}
}

// TestBounds: what policy lets users, and what it does not; exact words.
func TestBounds(t *testing.T) {
	when := time.Now().Add(30 * day).Truncate(time.Minute)
	far := []string{"hold", "--until", when.Format("2006-01-02 15:04"), sample.Name}
	in := func(d time.Duration) string { return time.Now().Add(d).Format("2006-01-02 15:04") }
	t.Run("too long", func(t *testing.T) {
		s := set(t, "defaults: {user-hold: 3d}\n", "medium")
		s.refused(77, fmt.Sprintf("cannot hold %s until %s as user nobody: users may hold it until %s", sample.Name, when.Format("2006-01-02 15:04"), in(3*day)),
			"without --for and --until it is held for as long as that; an administrator may hold it for longer", s.ann, far...)
		if h := s.holds(); len(h.Package.Holds) > 0 {
			t.Errorf("after a hold that was refused: held: got %v, want no hold", h)
		}
		s.ok(s.ann, "hold", sample.Name)
		if h := s.holds(); !around(h.Package.Held.Until, 3*day) {
			t.Errorf("without a time: got %+v, want a hold for 3 days", h)
		}
		s.ok(s.carl, far...) // polkit allows it
		s.ok(s.Admin, append([]string{"hold", "--reason", "release"}, far[1:]...)...)
		if h := s.holds(); h.String() != "root/0/true/release games/5/true/ nobody/65534/false/" && h.String() != "games/5/true/ root/0/true/release nobody/65534/false/" {
			t.Errorf("held: got %v, want root/0/true/release, games/5/true/ and nobody/65534/false/ last", h)
		}
		// Only their owners, and administrators, can end those.
		s.ok(s.ann, "unhold", sample.Name)
		r := s.ann.Lull("unhold", sample.Name)
		if r.Code != 77 || !strings.Contains(r.Stderr, "holds it until "+when.Format("2006-01-02 15:04")+"\n") {
			t.Errorf("a user ends an administrator's hold: got %v, want exit status 77 and %q in the error output", r, "holds it until "+when.Format("2006-01-02 15:04")+"\n")
		}
		s.ok(s.carl, "unhold", sample.Name) // only his own, because he has one
		if h := s.holds(); h.String() != "root/0/true/release" {
			t.Errorf("after the first unhold of carl: held: got %v, want root/0/true/release", h)
		}
		s.ok(s.carl, "unhold", sample.Name) // now polkit is asked
		if h := s.holds(); len(h.Package.Holds) > 0 {
			t.Errorf("after the second unhold of carl: held: got %v, want no hold", h)
		}
	})
	t.Run("not at all", func(t *testing.T) {
		s := set(t, "packages: {"+sample.Name+": {user-hold: 0s}}\n", "medium")
		s.refused(77, "cannot hold "+sample.Name+" as user nobody: policy lets only administrators hold it", "user-hold in the policy says how long users may", s.ann, "hold", sample.Name)
		s.ok(s.Admin, "hold", sample.Name)
	})
	t.Run("security", func(t *testing.T) {
		s := set(t, "", "security")
		app := s.run()
		s.Lull("refresh", sample.Name)
		s.refused(77, "cannot hold "+sample.Name+" as user nobody: the update to 2.0 is a matter of security, which only administrators may hold",
			"user-hold-security in the policy lets users do so", s.ann, "hold", sample.Name)
		app.Signal(syscall.SIGTERM)
		s.UntilVersion(sample.Name, sample.V2)
	})
	t.Run("a hold from before a security update", func(t *testing.T) {
		s := set(t, "", "security")
		s.ok(s.ann, "hold", sample.Name)
		s.MustLull("refresh", sample.Name)
		s.UntilVersion(sample.Name, sample.V2)
	})
	t.Run("security where users may", func(t *testing.T) {
		s := set(t, "defaults: {user-hold-security: true}\n", "security")
		s.ok(s.ann, "hold", sample.Name)
		s.Lull("refresh", sample.Name)
		s.untilHeld()
		s.ok(s.ann, "unhold", sample.Name)
		s.UntilVersion(sample.Name, sample.V2)
	})
	t.Run("an administrator holds security updates", func(t *testing.T) {
		s := set(t, "", "security")
		s.ok(s.Admin, "hold", sample.Name)
		s.Lull("refresh", sample.Name)
		s.untilHeld()
	})
	t.Run("renewed", func(t *testing.T) {
		s := set(t, "defaults: {user-hold: 5s}\n", "medium")
		app := s.run() // or it would be done as soon as no hold counts
		s.Lull("refresh", sample.Name)
		since := s.untilHeld().Num("Since")
		s.Until("users may hold it no longer", limit, func() (bool, string) {
			r := s.ann.Lull("hold", "--for", "5s", sample.Name)
			return strings.Contains(r.Stderr, "any longer"), r.Stderr
		})
		ready := time.UnixMicro(int64(since)).Format("2006-01-02 15:04")
		s.refused(77, "cannot hold "+sample.Name+" any longer as user daemon: the update to 2.0 has been ready since "+ready+", and users may hold it for 5s",
			"an administrator may hold it for longer", s.bob, "hold", sample.Name)
		app.Signal(syscall.SIGTERM)
		s.UntilVersion(sample.Name, sample.V2)
	})
	t.Run("without polkit", func(t *testing.T) {
		require.Root(t)
		s := set(t, "", "medium")
		s.StopAgent()
		w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll"}})
		w.Publish(s.Path(sample.V1))
		w.Begin()
		w.MustLull("install", sample.Name)
		if r := w.User.Lull("hold", sample.Name); r.Code != 77 || !strings.HasPrefix(r.Stderr, "lull: cannot hold refreshes: user nobody is not permitted to; only root is, as polkit is not running\nhint: ") {
			t.Errorf("got %v, want exit status 77 and error output that begins with %q", r, "lull: cannot hold refreshes: user nobody is not permitted to; only root is, as polkit is not running\nhint: ")
		}
		w.MustLull("hold", sample.Name)
	})
}

// run starts version 1 and returns when it runs.
func (s *scene) run() *rig.Proc {
	s.Helper()
	p := s.ann.StartLull(nil, "run", sample.Name)
	notes := filepath.Join(s.ann.Home, ".local/share/lull", sample.Name, "1/notes.txt")
	s.UntilFile("version 1 runs", limit, notes, func(text string) (bool, string) { return text != "", text + p.Log() })
	return p
}

// TestHoldOverTheBus: what any program gets to see.
func TestHoldOverTheBus(t *testing.T) {
	s := set(t, "", "medium")
	require.Program(t, "busctl")
	call := func(as *rig.Actor, args ...string) rig.Result {
		return as.Run("busctl", append([]string{"--address=" + s.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName + ".Manager"}, args...)...)
	}
	r := call(s.ann, "Hold", "sts", sample.Name, "0", "why not")
	var end int64
	if _, err := fmt.Sscanf(r.Stdout, "t %d", &end); err != nil || !around(time.UnixMicro(end), 7*day) {
		t.Fatalf("Hold without a time: got the end %d, error %v, want one in 7 days: %v", end, err, r)
	}
	p, _ := s.API.Package(sample.Name)
	if p.Num("HeldUntil") != uint64(end) || p.Str("HeldBy") != "nobody" || p.Str("HeldReason") != "why not" {
		t.Errorf("got %+v, want held until %v, held by %q and held reason %q", p.Props, uint64(end), "nobody", "why not")
	}
	if got := fmt.Sprint(p.Props["Holds"].Value()); !strings.HasPrefix(got, "[[65534 nobody ") || !strings.HasSuffix(got, fmt.Sprintf(" %d false why not]]", end)) {
		t.Errorf("Holds: got %s, want one of 65534 nobody, for the reason %q, until %d", got, "why not", end)
	}
	for _, args := range [][]string{{"Hold", "sts", "../x", "0", ""}, {"Hold", "sts", sample.Name, "1", ""}, {"Hold", "sts", sample.Name, "18446744073709551615", ""},
		{"Hold", "sts", sample.Name, "0", strings.Repeat("x", 201)}, {"Unhold", "s", "../x"}} {
		if r := call(s.ann, args...); r.Code == 0 || !strings.Contains(r.Stderr, "cannot ") {
			t.Errorf("%q: %v; want a failure and %q in the error output", args, r, "cannot ")
		}
	}
	if r := call(s.bob, "Unhold", "s", sample.Name); r.Code == 0 || !strings.Contains(r.Stderr, "nobody holds it until") {
		t.Errorf("got %v, want a failure and %q in the error output", r, "nobody holds it until")
	}
	if r := call(s.Admin, "Unhold", "s", sample.Name); r.Stdout != "ts 0 \"\"\n" {
		t.Errorf("got %v, want output %q", r, "ts 0 \"\"\n")
	}
}
