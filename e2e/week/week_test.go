package week_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) {
	if inSession() {
		rig.Main(m.Run)
		return
	}
	rig.MainWithReleaseAgent(m.Run)
}

// inSession reports whether this is the inside of a container with systemd, where people
// launch below their own managers, as in a session (TestEveryday of package container).
func inSession() bool { return os.Getenv("LULL_IN_CONTAINER") != "" }

const (
	applications = 5
	limit        = 2 * time.Minute // for what happens by itself, on a busy machine
)

// program prints its document, writes a line behind it, and may stay; what is current
// must be what it was started as, from its first moment to its last.
const program = `#!/bin/sh
look() { a=$(readlink "$WEEK_CURRENT"); [ "${a##*/}" = "$LULL_REVISION" ] || { echo "revision $LULL_REVISION runs while $a is current" >&2; exit 3; }; }
look
cat "$LULL_USER_DATA/document" 2>/dev/null
printf '%s;' "$1" >>"$LULL_USER_DATA/document"
if [ "$2" = stay ]; then echo; read end; fi
look
`

// service counts its starts in its data.
const service = `#!/bin/sh
echo "$LULL_REVISION" >>"$LULL_DATA/starts"
exec sleep 1000000
`

// application is one of the five.
type application struct {
	name    string
	version int
	rev     int
	from    map[int]int // whose data a revision takes over
}

// person is a user, and what the applications must show to this user.
type person struct {
	*rig.Actor
	documents map[string]map[int]string // application → revision → document
	last      map[string]int            // the revision that was used last
	brought   map[string]string         // from a store that is gone
}

// week is the scene.
type week struct {
	*rig.World
	t      *testing.T
	rand   *rand.Rand
	apps   []*application
	people []*person

	launches, refreshes, reverts, crashes int
}

// TestWeek lasts seven days, or LULL_WEEK days. Each takes a second or two.
func TestWeek(t *testing.T) {
	require.Root(t)
	require.NotShort(t)
	o := rig.Options{System: true}
	if !inSession() {
		require.ReleaseAgent(t)
		require.Program(t, "dbus-daemon", "setpriv")
		require.Lock(t, "freezer")
		o = rig.Options{Tracker: "freezer"}
	}
	days := 7
	seed := uint64(1)
	if s := os.Getenv("LULL_WEEK"); s != "" {
		var err error
		if days, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	w := &week{World: rig.New(t, o), t: t, rand: rand.New(rand.NewPCG(seed, 0))}
	w.Configure("policy.yaml", "defaults: {keep-revisions: 2, auto-refresh: false}\nschedule: {check: 31d}\ngc: {watermark: 0, reserve: 0}\n")
	for i := range applications {
		w.apps = append(w.apps, &application{name: fmt.Sprintf("org.lull.week%d", i)})
	}
	for _, a := range []*rig.Actor{w.Admin, w.User} {
		w.people = append(w.people, &person{a, map[string]map[int]string{}, map[string]int{}, map[string]string{}})
	}
	w.MustLull("repo", "init", w.Repo)
	for _, a := range w.apps {
		w.publish(a)
	}
	w.StartAgent()
	w.install()
	for day := 1; day <= days; day++ {
		for _, a := range w.apps {
			w.day(a)
		}
		switch {
		case day%7 == 3:
			w.Agent().Crash()
			w.crashes++
			w.StartAgent()
		case day%7 == 5:
			w.again()
		}
	}
	if r := w.Lull("verify"); r.Code != 0 {
		t.Errorf("got %v, want exit status 0", r)
	}
	if left := w.Markers(); len(left) > 0 {
		t.Errorf("markers are left: %v", left)
	}
	fmt.Printf("week: %d days, %d launches, %d refreshes, %d reverts, %d agents killed, 0 lost\n", days, w.launches, w.refreshes, w.reverts, w.crashes)
}

// publish offers the next version of an application.
func (w *week) publish(a *application) {
	w.Helper()
	a.version++
	services := ""
	if a == w.apps[0] {
		services = "services: [{name: svc, scope: system, command: [bin/svc]}]\n"
	}
	w.MustLull("publish", "--repo", w.Repo, w.Tree("src/"+a.name, map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\nsummary: keeps a document\napps: [{name: app, command: [bin/app]}]\ndata: {versioned: true}\n%s", a.name, a.version, services),
		"bin/app":   program, "bin/svc": service, "version": strconv.Itoa(a.version),
	}))
}

// install installs all of them in a store without any.
func (w *week) install() {
	w.Helper()
	w.MustLull("repo", "add", "local", w.Repo)
	for _, a := range w.apps {
		w.MustLull("install", a.name)
		a.from, a.rev = map[int]int{}, 0
		w.moved(a, 0)
	}
}

// moved notes that another revision is current.
func (w *week) moved(a *application, from int) {
	w.Helper()
	link, err := os.Readlink(filepath.Join(w.Store, "current", a.name))
	if err != nil {
		w.Fatalf("%v", err)
	}
	rev, err := strconv.Atoi(filepath.Base(link))
	if err != nil || rev == a.rev {
		w.Fatalf("%s is still at revision %s", a.name, link)
	}
	if _, known := a.from[rev]; !known {
		a.from[rev] = from
	}
	a.rev = rev
}

// day is one of an application: it is used, refreshed while a user has it open
// or not, and now and then reverted.
func (w *week) day(a *application) {
	w.Helper()
	who := w.people[w.rand.IntN(len(w.people))]
	w.use(who, a)
	if w.rand.IntN(3) > 0 {
		w.publish(a)
		if w.rand.IntN(2) == 0 {
			w.busyRefresh(who, a)
		} else {
			w.MustLull("refresh", a.name)
		}
		w.refreshes++
		w.moved(a, a.rev)
	} else if len(a.from) > 1 && w.rand.IntN(3) == 0 {
		switch r := w.Lull("revert", a.name); {
		case r.Code == 0:
			w.reverts++
			w.moved(a, a.rev)
		case !strings.Contains(r.Stderr, "no earlier revision is kept"): // the one that there was is in use
			w.Fatalf("%v", r)
		}
	}
	for _, p := range w.people {
		for range w.rand.IntN(3) {
			w.use(p, a)
		}
	}
	w.service(a)
}

// document is what a launch must show.
func (w *week) document(p *person, a *application) string {
	docs := p.documents[a.name]
	for rev := a.rev; rev != 0; rev = a.from[rev] {
		if d, ok := docs[rev]; ok {
			return d
		}
	}
	return p.brought[a.name]
}

// wrote notes what a launch has written.
func (w *week) wrote(p *person, a *application, line string) {
	if p.documents[a.name] == nil {
		p.documents[a.name] = map[int]string{}
	}
	p.documents[a.name][a.rev] = w.document(p, a) + line + ";"
	p.last[a.name] = a.rev
	w.launches++
}

// launch makes a command that launches an application, in a session as a unit of the
// user's own manager.
func (w *week) launch(p *person, a *application, args ...string) *exec.Cmd {
	argv := append([]string{"lull", "run", a.name}, args...)
	current := "WEEK_CURRENT=" + filepath.Join(w.Store, "current", a.name)
	if inSession() && p.Actor == w.User {
		flags := []string{"systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--setenv=" + current}
		for _, v := range p.Command("true").Env {
			flags = append(flags, "--setenv="+v)
		}
		argv = append(flags, argv...)
	}
	c := p.Command(argv[0], argv[1:]...)
	c.Env = append(c.Env, current, "DBUS_SESSION_BUS_ADDRESS=unix:path="+p.Runtime()+"/bus")
	return c
}

// use launches an application once.
func (w *week) use(p *person, a *application) {
	w.Helper()
	line := fmt.Sprintf("%s%d", p.Name, w.launches)
	c := w.launch(p, a, line)
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		w.Fatalf("%s of %s at revision %d: %v: %s", a.name, p.Name, a.rev, err, errs.String())
	}
	if want := w.document(p, a); out.String() != want {
		w.Fatalf("%s at revision %d shows %s %q, want %q", a.name, a.rev, p.Name, out.String(), want)
	}
	w.wrote(p, a, line)
}

// busyRefresh refreshes while a user has the application open, and writes
// meanwhile: the refresh comes when it is closed.
func (w *week) busyRefresh(p *person, a *application) {
	w.Helper()
	in, end, err := os.Pipe()
	if err != nil {
		w.Fatalf("%v", err)
	}
	defer end.Close()
	line := fmt.Sprintf("%s%d", p.Name, w.launches)
	want := w.document(p, a)
	running := w.launch(p, a, line, "stay")
	log := filepath.Join(w.Path(), "running.log")
	out, err := os.Create(log)
	if err != nil {
		w.Fatalf("%v", err)
	}
	defer out.Close()
	running.Stdin, running.Stdout, running.Stderr = in, out, out
	if err := running.Start(); err != nil {
		w.Fatalf("%v", err)
	}
	in.Close()
	w.UntilFile("it is open", limit, log, func(text string) (bool, string) { return strings.Contains(text, want+"\n"), text })
	w.wrote(p, a, line)
	if r := w.Lull("refresh", a.name); r.Code != 75 {
		w.Fatalf("a refresh beneath a running application: got %v, want exit status 75", r)
	}
	end.Close()
	if err := running.Wait(); err != nil {
		text, _ := os.ReadFile(log)
		w.Fatalf("%s ended: %v: %s", a.name, err, text)
	}
	w.MustLull("refresh", "--wait", a.name)
}

// service checks that the service's data has every start so far, and one of this revision.
func (w *week) service(a *application) {
	w.Helper()
	if a != w.apps[0] {
		return
	}
	path := filepath.Join(w.Store, "data", a.name, strconv.Itoa(a.rev), "starts")
	w.UntilFile("the service has started", limit, path, func(text string) (bool, string) {
		return strings.HasSuffix(text, fmt.Sprintf("%d\n", a.rev)), text
	})
}

// again is a machine that is purged and reinstalled; the homes stay.
func (w *week) again() {
	w.Helper()
	for _, a := range w.apps { // which also ends the service
		w.MustLull("remove", a.name)
	}
	w.StopAgent()
	if err := os.RemoveAll(w.Store); err != nil {
		w.Fatalf("%v", err)
	}
	if err := os.RemoveAll(filepath.Join(w.Config, "repos.d")); err != nil {
		w.Fatalf("%v", err)
	}
	if err := os.Mkdir(w.Store, 0o755); err != nil {
		w.Fatalf("%v", err)
	}
	for _, p := range w.people {
		for _, a := range w.apps {
			if rev, used := p.last[a.name]; used {
				p.brought[a.name] = p.documents[a.name][rev]
			}
		}
		p.documents, p.last = map[string]map[int]string{}, map[string]int{}
	}
	w.StartAgent()
	w.install()
}
