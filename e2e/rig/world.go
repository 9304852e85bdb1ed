package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// Options choose what a world is made of.
type Options struct {
	Tags     string   // build tags of lull's binaries
	Rootless bool     // the agent is `lulld --user`, on the machine's systemd
	System   bool     // on the system bus of a container, with its logind and its journal
	Root     string   // the agent's root; default: a directory in the world
	Logind   bool     // a logind and a journal of its own (not with Rootless)
	Tracker  string   // what lulld gets as --tracker; default auto
	Flags    []string // more flags of lulld
	Dunst    string   // more of the configuration of the notification server, see dunst(5)
	Below    []string // a command that starts the agent, which it finds in its arguments
}

// World is a scratch machine.
type World struct {
	TB
	Options

	Dir    string // everything below belongs to the world
	Bin    string // lull's binaries
	Store  string // the agent's --root
	RunDir string
	Config string
	Repo   string // where stories keep their repository

	Admin *Actor // who owns the agent
	User  *Actor // who runs applications

	Bus     *Bus // the bus of the agent and of logind
	Session *Bus // the user's session bus

	events  chan struct{}
	ns      *namespace
	logind  string // address of logind's bus
	display string
	agent   *Proc
}

// New makes a world: directories, users, buses, and the other parts of opts.
// The agent is not started yet.
func New(tb TB, opts Options) *World {
	tb.Helper()
	dir, err := os.MkdirTemp("", "lull-e2e-")
	if err != nil {
		tb.Fatalf("cannot make a scratch directory: %v", err)
	}
	w := &World{TB: tb, Options: opts, Dir: dir, events: make(chan struct{}, 1), Bin: Binaries(tb, opts.Tags)}
	w.startJanitor()
	tb.Cleanup(func() { w.remove() })
	w.Store = opts.Root
	if w.Store == "" {
		w.Store = w.folder("root", 0o755)
	}
	os.Chmod(dir, 0o755)
	w.Watch(w.folder("log", 0o755))
	w.RunDir = w.folder("run", 0o755)
	w.Config = w.folder("config", 0o755)
	w.Repo = filepath.Join(dir, "repo")
	w.people()
	tb.Cleanup(w.sweep)

	if opts.System {
		w.systemBus()
		return w
	}
	w.Bus = w.startBus("system", nil)
	w.logind = w.Bus.Address
	switch {
	case opts.Rootless:
		w.logind = "system"
	case opts.Logind && Booted():
		w.logind = "system"
	case opts.Logind:
		w.startMachine()
	}
	return w
}

// Booted reports whether systemd is PID 1.
func Booted() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// folder makes a directory in the world and returns its path.
func (w *World) folder(name string, perm os.FileMode) string {
	path := filepath.Join(w.Dir, name)
	if err := os.MkdirAll(path, perm); err != nil {
		w.Fatalf("cannot make %s: %v", path, err)
	}
	return path
}

// Path names a file in the world.
func (w *World) Path(elem ...string) string {
	return filepath.Join(append([]string{w.Dir}, elem...)...)
}

// remove removes the scratch directory, or reports its path if its files might
// explain a failure.
func (w *World) remove() {
	if w.Failed() && os.Getenv("LULL_KEEP") != "" {
		w.Logf("kept because LULL_KEEP is set: %s", w.Dir)
		return
	}
	if err := removeTree(w.Dir); err != nil {
		w.Logf("cannot clean up: %v", err)
	}
}

// removeTree removes a tree whose directories may be read-only.
func removeTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o755)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// Actor is a user as whom commands run.
type Actor struct {
	w    *World
	Name string
	UID  int
	GID  int
	Home string
	Env  []string // besides the world's
}

// people chooses the actor. As root, applications are run by an ordinary user
// of the machine, nobody, with a home in the world; an ordinary user is the
// actor itself.
func (w *World) people() {
	me, err := user.Current()
	if err != nil {
		w.Fatalf("cannot look up the current user: %v", err)
	}
	uid, _ := strconv.Atoi(me.Uid)
	gid, _ := strconv.Atoi(me.Gid)
	w.Admin = &Actor{w: w, Name: me.Username, UID: uid, GID: gid, Home: w.folder("home-"+me.Username, 0o700)}
	w.User = w.Admin
	switch {
	case w.System:
		w.User = w.Ordinary(Tester)
	case uid == 0:
		w.User = w.Ordinary("nobody")
	}
}

// Ordinary makes an actor of a user that the machine has; needs root.
func (w *World) Ordinary(name string) *Actor {
	w.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		w.Fatalf("%v", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	a := &Actor{w: w, Name: name, UID: uid, GID: gid, Home: w.folder("home-"+name, 0o700)}
	a.Own(a.Home)
	return a
}

// Own gives a file or directory to the actor.
func (a *Actor) Own(path string) {
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, a.UID, a.GID); err != nil {
		a.w.Fatalf("cannot give %s to %s: %v", path, a.Name, err)
	}
}

// Runtime is the actor's XDG_RUNTIME_DIR.
func (a *Actor) Runtime() string {
	if a.w.System {
		return fmt.Sprintf("/run/user/%d", a.UID)
	}
	dir := a.w.folder("runtime-"+a.Name, 0o700)
	a.Own(dir)
	return dir
}

// environ is what a process of the actor sees.
func (a *Actor) environ() []string {
	w := a.w
	env := []string{
		"PATH=" + w.Bin + ":/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
		"LANG=C.UTF-8", "HOME=" + a.Home, "USER=" + a.Name, "LOGNAME=" + a.Name, "NO_COLOR=1",
		"LULL_ROOT=" + w.Store, "LULL_RUN_DIR=" + w.RunDir, "LULL_CONFIG=" + w.Config,
	}
	if w.Rootless {
		// Scopes are made by the user's own manager, which is found here.
		env = append(env, "XDG_RUNTIME_DIR="+os.Getenv("XDG_RUNTIME_DIR"))
	} else {
		env = append(env, "XDG_RUNTIME_DIR="+a.Runtime())
	}
	if w.Bus != nil && !w.System {
		env = append(env, "LULL_BUS="+w.Bus.Address)
		if !w.Rootless && !Booted() {
			env = append(env, "DBUS_SYSTEM_BUS_ADDRESS="+w.Bus.Address)
		}
	}
	if w.Session != nil {
		env = append(env, "LULL_SESSION_BUS="+w.Session.Address)
	}
	switch {
	case w.Rootless && os.Getenv("DBUS_SESSION_BUS_ADDRESS") != "":
		env = append(env, "DBUS_SESSION_BUS_ADDRESS="+os.Getenv("DBUS_SESSION_BUS_ADDRESS"))
	case w.Session != nil:
		env = append(env, "DBUS_SESSION_BUS_ADDRESS="+w.Session.Address)
	}
	if w.display != "" {
		env = append(env, "DISPLAY="+w.display)
	}
	return append(env, a.Env...)
}

// Command makes a command that runs as the actor in the world.
func (a *Actor) Command(name string, args ...string) *exec.Cmd {
	w := a.w
	argv := append([]string{name}, args...)
	if a.UID != os.Geteuid() {
		argv = append([]string{"setpriv", fmt.Sprintf("--reuid=%d", a.UID), fmt.Sprintf("--regid=%d", a.GID), "--clear-groups",
			"--inh-caps=-all", "--pdeathsig=KILL", "--"}, argv...)
	}
	if w.ns != nil {
		argv = append([]string{"nsenter", "--mount=" + w.ns.file(), "--"}, argv...)
	}
	path := w.look(argv[0])
	cmd := &exec.Cmd{Path: path, Args: argv, Env: a.environ(), Dir: w.Dir}
	return cmd
}

// look finds a program in the directories of the world's PATH.
func (w *World) look(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	for _, dir := range []string{w.Bin, "/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	w.Fatalf("cannot find the program %s (make deps installs what is needed)", name)
	return ""
}

// Run runs a command to its end, which must come within two minutes.
func (a *Actor) Run(name string, args ...string) Result {
	a.w.Helper()
	return a.RunWithin(2*time.Minute, name, args...)
}

// RunWithin runs a command that must end within a time.
func (a *Actor) RunWithin(limit time.Duration, name string, args ...string) Result {
	a.w.Helper()
	r, err := run(a.w.Context(), limit, a.Command(name, args...))
	r.Args = append([]string{name}, args...)
	if err != nil {
		a.w.Fatalf("cannot run %s: %v\n%v", name, err, r)
	}
	return r
}

// Must runs a command that must succeed.
func (a *Actor) Must(name string, args ...string) Result {
	a.w.Helper()
	r := a.Run(name, args...)
	if r.Code != 0 {
		a.w.Fatalf("%v", r)
	}
	return r
}

// Start starts a command that goes on.
func (a *Actor) Start(name string, args ...string) *Proc {
	a.w.Helper()
	return start(a.w, a.w.Path("log"), filepath.Base(name), a.Command(name, args...))
}

// StartWith starts a command after prepare has changed it.
func (a *Actor) StartWith(prepare func(*exec.Cmd), name string, args ...string) *Proc {
	a.w.Helper()
	cmd := a.Command(name, args...)
	prepare(cmd)
	return start(a.w, a.w.Path("log"), filepath.Base(name), cmd)
}

// Until waits until cond holds; it is re-checked after each event on one of
// the world's buses or in a watched directory. The text that cond returns goes
// into the failure.
func (w *World) Until(what string, limit time.Duration, cond func() (bool, string)) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	defer cancel()
	for {
		if ok, _ := cond(); ok {
			return
		}
		select {
		case <-w.events:
		case <-ctx.Done():
			if w.Context().Err() != nil {
				w.Fatalf("%v", errStopped)
			}
			ok, seen := cond()
			if !ok {
				w.Fatalf("waited %v in vain until %s; seen last: %s", limit, what, seen)
			}
			w.Fatalf("%s (%s), but no event reported it within %v", what, seen, limit)
		}
	}
}

// wake lets Until re-check.
func (w *World) wake() {
	select {
	case w.events <- struct{}{}:
	default:
	}
}
