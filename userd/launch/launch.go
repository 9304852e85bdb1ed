package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/launchconf"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/lib/scopes"
)

// Main is lull-run: it returns the exit status, if it returns.
func Main(ctx context.Context, args []string) int {
	if len(args) > 2 && args[0] == "--after-fd" {
		err := errkind.New(errkind.Failed, "cannot run %s: %w", args[2], execAfter(args[1], args[2:]))
		fmt.Fprintf(os.Stderr, "lull: %s\n", printable.Line(err.Error()))
		return errkind.ExitCode(err)
	}
	speak()
	o, err := ParseArgs(args)
	if errors.Is(err, ErrHelp) {
		fmt.Print(Usage)
		return 0
	}
	if err == nil {
		o.Stderr = os.Stderr
		err = Run(ctx, o)
	}
	fmt.Fprintf(os.Stderr, "lull: %s\n", printable.Line(translated(err.Error())))
	if hint := errkind.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, printable.Line(translated(errkind.Text("hint: %s", hint))))
	}
	return errkind.ExitCode(err)
}

// execAfter is how the agent starts a hook: the program is executed when a
// byte comes through the descriptor, because the agent has moved this process to
// the group of the hook; if the agent dies before, never.
func execAfter(fd string, argv []string) error {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return err
	}
	gate := os.NewFile(uintptr(n), "gate")
	if _, err := gate.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the agent has given it up: %w", err)
	}
	gate.Close()
	return unix.Exec(argv[0], argv, os.Environ())
}

// Run launches and does not return, except with the reason why it could not.
// Kinds: NotFound, Unavailable (it cannot be tracked), Invalid, and others.
func Run(ctx context.Context, o Options) error {
	return within(run(ctx, &o), errkind.Text("cannot run %s", o.Instance))
}

// within puts an error into its context and keeps its kind and its advice.
func within(err error, what string) error {
	p := errkind.New(errkind.KindOf(err), "%s: %w", what, err)
	p.Hint = errkind.HintOf(err)
	return p
}

// launch is what is known of a launch under way.
type launch struct {
	*Options
	settings launchconf.Settings
	ctl      *runctl.Dir
	lock     *runctl.Lock
	tether   int // descriptor; -1 means that there is none
	rev      uint32
	pkg      digest.Digest
	ran      digest.Digest // package of the program: pkg, or a subpackage of it
	subs     []string      // LULL_SUBPACKAGE_ variables of that package
	vars     map[string]manifest.Variable
	layout   map[string]string
	root     string        // directory whose files the program finds at /; "" means the host's
	data     manifest.Data // how the package keeps data
	ofUser   bool          // what is launched works on the user's data
	notifies bool          // a service that reports to systemd by itself when it is ready
	command  []string
	title    string // of the application, for people

	manager *scopes.Manager // nil if not connected to systemd
	asked   bool            // manager has been asked for the scope
	at      place           // unknown until place is called
}

func run(ctx context.Context, o *Options) (err error) {
	if err := manifest.ValidInstance(o.Instance); err != nil {
		return err
	}
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return errkind.New(errkind.NotPermitted, "the launcher must not be set-user-id")
	}
	execFD, err := takeExecFD()
	if err != nil {
		return err
	}
	defer func() {
		if execFD >= 0 {
			err = errors.Join(err, tellWhy(execFD, err))
		}
	}()
	l := &launch{Options: o, tether: -1}
	if l.settings, err = o.complete(); err != nil {
		return err
	}
	if o.Package != "" {
		env, err := l.fromPackage(ctx)
		if err != nil {
			return err
		}
		return l.exec(env, execFD)
	}
	defer func() {
		l.hangUp()
		if l.lock != nil {
			l.lock.Unlock()
		}
	}()
	var env []string
	for try := 1; ; try++ {
		env, err = l.begin(ctx)
		if err == nil {
			break
		}
		// An agent that was killed after it had allowed launches may inhibit
		// them when it is back, with this process inside.
		if !errkind.Is(err, errkind.Busy) || try == tries {
			return err
		}
		l.untie()
		l.hangUp()
		if l.lock != nil {
			l.lock.Unlock()
		}
	}
	if err := faultpoint.Hit("launch.unlocked"); err != nil {
		return err
	}
	return l.exec(env, execFD)
}

// tries bounds how often a launch is restarted because the agent refuses to
// let it join now; each time it waits for as long as a marker exists.
const tries = 10

// begin is 1 to 6 of a launch, and returns the environment for the application.
func (l *launch) begin(ctx context.Context) (env []string, err error) {
	l.callAhead(ctx)
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	if err := faultpoint.Hit("launch.locked"); err != nil {
		return nil, err
	}
	if err := l.locate(); err != nil {
		return nil, err
	}
	if err := l.tie(); err != nil {
		return nil, err
	}
	if err := l.read(); err != nil {
		return nil, err
	}
	l.ask()
	if !l.asked || l.tether < 0 {
		return l.joinThenPrepare(ctx)
	}
	// The tether reveals this launch, so the rest needs neither the lock nor
	// the scope: it happens while systemd creates the scope.
	joined := make(chan error, 1)
	go func() {
		_, err := l.join(ctx)
		joined <- err
	}()
	l.lock.Unlock()
	env, err = l.prepare(ctx)
	if err := <-joined; err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return env, faultpoint.Hit("launch.joined")
}

// joinThenPrepare is for a launch that only its run reveals: until it has one,
// it keeps the lock.
func (l *launch) joinThenPrepare(ctx context.Context) (env []string, err error) {
	tracked, err := l.join(ctx)
	if err == nil {
		err = faultpoint.Hit("launch.joined")
	}
	if err != nil {
		return nil, err
	}
	if tracked {
		l.lock.Unlock()
	}
	if env, err = l.prepare(ctx); err != nil {
		return nil, err
	}
	l.lock.Unlock()
	return env, nil
}

// exec becomes the program.
func (l *launch) exec(env []string, execFD int) error {
	path := filepath.Join(l.dirOf(l.ran), l.command[0])
	argv := append([]string{path}, append(l.command[1:len(l.command):len(l.command)], l.Args...)...)
	path, argv = l.interpreted(path, argv)
	if len(l.layout) > 0 || l.root != "" {
		var err error
		if argv, err = l.inPlace(path, argv); err != nil {
			return err
		}
	}
	if err := l.ready(path); err != nil {
		return err
	}
	path = argv[0]
	if err := unix.Exec(path, argv, env); err != nil {
		return cannotExecute(path, err)
	}
	panic("exec returned without an error, fd " + strconv.Itoa(execFD))
}

// ready notifies systemd, which has started this service and waits for it
// (sd_notify(3)), that the launch is over. Until then the unit is not active:
// a service whose launcher waits or fails does not run. It is the last step
// before exec, so errors that exec would return are checked first. A service
// that reports its readiness by itself has systemd's socket instead.
func (l *launch) ready(path string) error {
	if l.Service == "" {
		return nil
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return cannotExecute(path, err)
	}
	if l.notifies {
		return nil
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return errkind.New(errkind.Failed, "cannot notify systemd: %w", err)
	}
	return nil
}

// tellWhy writes the error to the process that waits for exec.
func tellWhy(execFD int, err error) error {
	text := err.Error()
	_, werr := unix.Write(execFD, []byte(text[:min(len(text), maxWhy)]))
	if errors.Is(werr, unix.EPIPE) {
		return nil // no process waits any more
	}
	return werr
}

// maxWhy is what a pipe takes in one piece, in bytes (pipe(7)).
const maxWhy = 4096

// takeExecFD finds the descriptor of ExecFDEnv and marks it close-on-exec. The
// launched program does not get it.
func takeExecFD() (int, error) {
	text, ok := os.LookupEnv(launchconf.ExecFDEnv)
	if !ok {
		return -1, nil
	}
	os.Unsetenv(launchconf.ExecFDEnv)
	fd, err := strconv.Atoi(text)
	if err == nil && fd > 2 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	} else if err == nil {
		err = unix.EBADF
	}
	if err != nil {
		return -1, errkind.New(errkind.Usage, "%s=%q is no descriptor: %w", launchconf.ExecFDEnv, text, err)
	}
	return fd, nil
}

// enter gets the read lock at a moment when nothing keeps the launch out.
func (l *launch) enter(ctx context.Context) error {
	woken := false
	for {
		lock, err := l.tryEnter(ctx)
		switch {
		case err == nil && lock != nil:
			l.lock = lock
			return nil
		case err == nil:
			continue // it waited
		case !errkind.Is(err, errkind.NotFound):
			return err
		case !l.installed():
			return errkind.New(errkind.NotFound, "it is not installed").WithHint("lull list shows what is; lull install %s installs it", l.Instance)
		case woken:
			return errkind.New(errkind.Unavailable, "the agent has not set up %s since the machine started", l.RunDir).
				WithHint("start the agent: systemctl start lulld.service")
		}
		// Installed, but without a lock file: the machine has just started. The
		// bus starts the agent, which makes the file before it answers.
		if err := l.wakeAgent(ctx); err != nil {
			return errkind.New(errkind.Unavailable, "the agent has not run since the machine started: %w", err).
				WithHint("start the agent: systemctl start lulld.service")
		}
		woken = true
	}
}

// tryEnter returns the lock, or nil after having waited for the removal of a
// marker.
func (l *launch) tryEnter(ctx context.Context) (*runctl.Lock, error) {
	ctl, err := runctl.Open(l.RunDir)
	if err != nil {
		return nil, err
	}
	l.ctl = ctl
	lock, err := ctl.ReadLock(ctx, l.Instance)
	if err != nil {
		return nil, err
	}
	word, err := ctl.Inhibited(l.Instance)
	if err != nil {
		lock.Unlock()
		return nil, err
	}
	if word == "" || l.ignores(word) {
		return lock, nil
	}
	lock.Unlock()
	if l.Hook != "" {
		// The refresh that it should announce is under way by now.
		return nil, errkind.New(errkind.Busy, "its hook %s is too late: %s", l.Hook, why(l.Instance, word))
	}
	l.sayWaiting(word)
	started := l.tellDesktop(ctx, word)
	defer started()
	l.hangUp() // it may take minutes
	return nil, ctl.WaitUninhibited(ctx, l.Instance, l.ignored()...)
}

// ignored are the markers that do not keep this launch out.
func (l *launch) ignored() []string {
	switch {
	case l.Hook != "":
		return []string{runctl.RefreshPending} // which it announces
	case l.Service == "":
		return nil
	case l.Session: // started when the refresh is done, so that it cannot see data that comes to nothing
		return []string{runctl.RefreshPending}
	}
	return []string{runctl.RefreshStarting, runctl.RefreshPending}
}

func (l *launch) ignores(word string) bool { return slices.Contains(l.ignored(), word) }

func (l *launch) current() string { return filepath.Join(l.Root, "current", l.Instance) }

func (l *launch) installed() bool {
	_, err := os.Lstat(l.current())
	return err == nil
}

func (l *launch) dirOf(pkg digest.Digest) string {
	return filepath.Join(l.Root, "packages", pkg.String())
}

func (l *launch) revision(rev uint32) string {
	return filepath.Join(l.Root, "revisions", l.Instance, strconv.FormatUint(uint64(rev), 10))
}

// locate finds the revision and its package. Two links are read; only the
// rename of the first changes the result.
func (l *launch) locate() error {
	target, err := os.Readlink(l.current())
	if errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.NotFound, "it is not installed")
	}
	if errors.Is(err, unix.EINVAL) {
		return damaged("%s is no link", l.current())
	}
	if err != nil {
		return unread(err)
	}
	rev, err := strconv.ParseUint(filepath.Base(target), 10, 32)
	if err != nil || rev == 0 || filepath.Dir(target) != filepath.Join("..", "revisions", l.Instance) {
		return damaged("%s leads to %q, which is no revision", l.current(), target)
	}
	l.rev = uint32(rev)
	if target, err = os.Readlink(l.revision(l.rev)); err != nil {
		return unread(err)
	}
	if l.pkg, err = digest.Parse(filepath.Base(target)); err != nil {
		return damaged("%s leads to %q, which is no package", l.revision(l.rev), target)
	}
	return nil
}

// read reads the package's launch.json, and then those of the subpackages on the way to the
// one whose program is launched. The program works on the data of the instance.
func (l *launch) read() error {
	m, err := l.manifestOf(l.pkg)
	if err != nil {
		return err
	}
	l.ran, l.data, l.title = l.pkg, m.Data, m.Shown()
	for _, name := range l.Inside {
		sub, there := m.Subpackages[name]
		if !there {
			err := errkind.New(errkind.NotFound, "%s has no subpackage %.80q", m.Name, name)
			if len(m.Subpackages) > 0 {
				err = err.WithHint("it has %s", strings.Join(slices.Sorted(maps.Keys(m.Subpackages)), ", "))
			}
			return err
		}
		l.ran = sub
		if m, err = l.manifestOf(sub); err != nil {
			return err
		}
	}
	l.subs, l.vars, l.layout = manifest.SubpackageEnv(l.dirOf(l.ran), m), m.Environment, m.Layout
	if dir := m.RootDir(); dir != "" {
		l.root = filepath.Join(l.dirOf(l.ran), dir)
	}
	l.command, err = l.choose(m)
	return err
}

// manifestOf reads the launch.json of a package.
func (l *launch) manifestOf(pkg digest.Digest) (*manifest.Launch, error) {
	b, err := os.ReadFile(filepath.Join(l.dirOf(pkg), manifest.Reserved, "launch.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged("package %s of revision %d is not there", pkg.Short(), l.rev)
	}
	if err != nil {
		return nil, unread(err)
	}
	m, err := manifest.ParseLaunch(b)
	if err != nil {
		return nil, damaged("package %s of revision %d: %w", pkg.Short(), l.rev, err)
	}
	return m, nil
}

// unread is the error about a part of the installation that cannot be read.
func unread(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return damaged("%w", err)
}

// damaged is the error about an installation that is not whole.
func damaged(format string, args ...any) error {
	return errkind.New(errkind.Failed, "its installation is damaged: "+format, args...).
		WithHint("lull doctor has details; as root, lull verify --repair repairs it")
}

// choose finds the command to execute.
func (l *launch) choose(m *manifest.Launch) ([]string, error) {
	l.ofUser = true
	if l.Service != "" {
		if s := m.Service(l.Service); s != nil {
			l.ofUser, l.notifies = l.Session, s.Ready == manifest.ReadyNotify
			return s.Command, nil
		}
		return nil, errkind.New(errkind.NotFound, "it has no service %q", l.Service)
	}
	if l.Hook != "" {
		if command := m.SessionHook(l.Hook); len(command) > 0 {
			return command, nil
		}
		return nil, errkind.New(errkind.NotFound, "it has no hook %s", l.Hook)
	}
	if len(m.Apps) == 0 {
		return nil, errkind.New(errkind.NotFound, "it has no application to run")
	}
	if l.App == "" {
		l.App = m.DefaultApp()
	}
	if a := m.App(l.App); a != nil {
		return a.Command, nil
	}
	names := make([]string, len(m.Apps))
	for i := range m.Apps {
		names[i] = m.Apps[i].Name
	}
	return nil, errkind.New(errkind.NotFound, "it has no application %q", l.App).WithHint("it has %s", strings.Join(names, ", "))
}
