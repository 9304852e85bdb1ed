package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/faultpoint"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/runctl"
)

// ExecFDEnv names the environment variable with the number of a descriptor that
// the launcher closes by the very act of exec. Whoever holds the other end of
// that pipe sees the end of file when the program runs, or reads why the launch
// failed.
const ExecFDEnv = "LULL_EXEC_FD"

// Main is lull-run: it returns the exit status, if it returns.
func Main(ctx context.Context, args []string) int {
	if len(args) > 2 && args[0] == "--after-fd" {
		err := problem.New(problem.Failed, "cannot run %s: %w", args[2], execAfter(args[1], args[2:]))
		fmt.Fprintf(os.Stderr, "lull: %v\n", err)
		return problem.ExitCode(err)
	}
	o, err := ParseArgs(args)
	if errors.Is(err, ErrHelp) {
		fmt.Print(Usage)
		return 0
	}
	if err == nil {
		o.Stderr = os.Stderr
		err = Run(ctx, o)
	}
	fmt.Fprintf(os.Stderr, "lull: %v\n", err)
	if hint := problem.HintOf(err); hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	}
	return problem.ExitCode(err)
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
	return within(run(ctx, &o), "cannot run "+o.Instance)
}

// within puts an error into its context and keeps its kind and its advice.
func within(err error, what string) error {
	p := problem.New(problem.KindOf(err), "%s: %w", what, err)
	p.Hint = problem.HintOf(err)
	return p
}

// launch is what is known of a launch under way.
type launch struct {
	*Options
	settings Settings
	ctl      *runctl.Dir
	lock     *runctl.Lock
	rev      uint32
	pkg      digest.Digest
	versions bool // the package keeps data per revision
	ofUser   bool // what is launched works on the user's data
	command  []string
}

func run(ctx context.Context, o *Options) (err error) {
	if err := meta.ValidInstance(o.Instance); err != nil {
		return err
	}
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return problem.New(problem.NotPermitted, "the launcher must not be set-user-id")
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
	l := &launch{Options: o}
	if l.settings, err = o.complete(); err != nil {
		return err
	}
	if o.Package != "" {
		env, err := l.fromPackage()
		if err != nil {
			return err
		}
		return l.exec(env, execFD)
	}
	tracked := false
	defer func() {
		if l.lock != nil {
			l.lock.Unlock()
		}
	}()
	for try := 1; ; try++ {
		tracked, err = l.begin(ctx)
		if err == nil {
			break
		}
		// An agent that was killed after it had opened the door may shut it again when
		// it is back, with us inside.
		if !problem.Is(err, problem.Busy) || try == tries {
			return err
		}
		if l.lock != nil {
			l.lock.Unlock()
		}
	}
	if err := faultpoint.Hit("launch.joined"); err != nil {
		return err
	}
	if tracked {
		l.lock.Unlock()
	}
	env, err := l.prepare(ctx)
	if err != nil {
		return err
	}
	l.lock.Unlock()
	if err := faultpoint.Hit("launch.unlocked"); err != nil {
		return err
	}
	return l.exec(env, execFD)
}

// tries bounds how often a launch begins anew because the agent says that it may
// not join now; each time it waits for as long as a marker says so.
const tries = 10

// begin is 1 to 4 of a launch.
func (l *launch) begin(ctx context.Context) (tracked bool, err error) {
	if err := l.enter(ctx); err != nil {
		return false, err
	}
	if err := faultpoint.Hit("launch.locked"); err != nil {
		return false, err
	}
	if err := l.resolve(); err != nil {
		return false, err
	}
	return l.join(ctx)
}

// exec becomes the program.
func (l *launch) exec(env []string, execFD int) error {
	path := filepath.Join(l.packageDir(), l.command[0])
	if err := l.ready(path); err != nil {
		return err
	}
	argv := append([]string{path}, append(l.command[1:len(l.command):len(l.command)], l.Args...)...)
	if err := unix.Exec(path, argv, env); err != nil {
		return problem.New(problem.KindOf(err), "cannot execute %s: %w", path, err)
	}
	panic("exec returned without an error, fd " + strconv.Itoa(execFD))
}

// ready tells systemd, which has started this service and waits for it
// (sd_notify(3)), that the launch is over. Until then the unit is not active: a
// service whose launcher waits or fails does not run. The last word before exec,
// so what exec would find wrong is looked at first.
func (l *launch) ready(path string) error {
	if l.Service == "" {
		return nil
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return problem.New(problem.KindOf(err), "cannot execute %s: %w", path, err)
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return problem.New(problem.Failed, "cannot tell systemd: %w", err)
	}
	return nil
}

// tellWhy writes what went wrong to whoever waits for exec.
func tellWhy(execFD int, err error) error {
	text := err.Error()
	_, werr := unix.Write(execFD, []byte(text[:min(len(text), maxWhy)]))
	if errors.Is(werr, unix.EPIPE) {
		return nil // nobody waits any more
	}
	return werr
}

// maxWhy is what a pipe takes in one piece, in bytes (pipe(7)).
const maxWhy = 4096

// takeExecFD finds the descriptor of ExecFDEnv and has exec close it. The
// program that is launched hears nothing of it.
func takeExecFD() (int, error) {
	text, ok := os.LookupEnv(ExecFDEnv)
	if !ok {
		return -1, nil
	}
	os.Unsetenv(ExecFDEnv)
	fd, err := strconv.Atoi(text)
	if err == nil && fd > 2 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	} else if err == nil {
		err = unix.EBADF
	}
	if err != nil {
		return -1, problem.New(problem.Usage, "%s=%q is no descriptor: %w", ExecFDEnv, text, err)
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
		case !problem.Is(err, problem.NotFound):
			return err
		case !l.installed():
			return problem.New(problem.NotFound, "it is not installed").WithHint("lull list shows what is; lull install %s installs it", l.Instance)
		case woken:
			return problem.New(problem.Unavailable, "the agent has not set up %s since the machine started", l.RunDir).
				WithHint("start the agent: systemctl start lulld.service")
		}
		// Installed, but without a lock file: the machine has just started. The
		// bus starts the agent, which makes the file before it answers.
		if err := l.wakeAgent(ctx); err != nil {
			return problem.New(problem.Unavailable, "the agent has not run since the machine started: %w", err).
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
		// What it was to tell of is under way by now.
		return nil, problem.New(problem.Busy, "its hook %s is too late: %s", l.Hook, why(l.Instance, word))
	}
	l.sayWaiting(word)
	started := l.tellDesktop(ctx, word)
	defer started()
	return nil, ctl.WaitUninhibited(ctx, l.Instance, l.ignored()...)
}

// ignored are the markers that do not keep this launch out.
func (l *launch) ignored() []string {
	switch {
	case l.Hook != "":
		return []string{runctl.RefreshPending} // which is what it is to tell of
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

func (l *launch) packageDir() string { return filepath.Join(l.Root, "packages", l.pkg.String()) }

func (l *launch) revision(rev uint32) string {
	return filepath.Join(l.Root, "revisions", l.Instance, strconv.FormatUint(uint64(rev), 10))
}

// resolve finds the revision, its package and the command. Two links are read;
// the rename of the first is the only thing that changes what they say.
func (l *launch) resolve() error {
	target, err := os.Readlink(l.current())
	if errors.Is(err, fs.ErrNotExist) {
		return problem.New(problem.NotFound, "it is not installed")
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
	return l.read()
}

// read reads what the package says of itself.
func (l *launch) read() error {
	b, err := os.ReadFile(filepath.Join(l.packageDir(), meta.Reserved, "launch.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("package %s of revision %d is not there", l.pkg.Short(), l.rev)
	}
	if err != nil {
		return unread(err)
	}
	m, err := meta.ParseLaunch(b)
	if err != nil {
		return damaged("package %s of revision %d: %w", l.pkg.Short(), l.rev, err)
	}
	l.versions = m.Data.Versioned
	l.command, err = l.choose(m)
	return err
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
	return problem.New(problem.Failed, "its installation is damaged: "+format, args...).
		WithHint("lull doctor says more; as root, lull verify --repair puts it right")
}

// choose finds the command to execute.
func (l *launch) choose(m *meta.Launch) ([]string, error) {
	l.ofUser = true
	if l.Service != "" {
		if s := m.Service(l.Service); s != nil {
			l.ofUser = l.Session
			return s.Command, nil
		}
		return nil, problem.New(problem.NotFound, "it has no service %q", l.Service)
	}
	if l.Hook != "" {
		if command := m.Hooks[l.Hook]; len(command) > 0 {
			return command, nil
		}
		return nil, problem.New(problem.NotFound, "it has no hook %s", l.Hook)
	}
	if len(m.Apps) == 0 {
		return nil, problem.New(problem.NotFound, "it has no application to run")
	}
	if l.App == "" {
		l.App = m.Apps[0].Name
		if m.App(m.Name) != nil {
			l.App = m.Name
		}
	}
	if a := m.App(l.App); a != nil {
		return a.Command, nil
	}
	names := make([]string, len(m.Apps))
	for i := range m.Apps {
		names[i] = m.Apps[i].Name
	}
	return nil, problem.New(problem.NotFound, "it has no application %q", l.App).WithHint("it has %s", strings.Join(names, ", "))
}

// prepare makes the user's folders and the environment.
func (l *launch) prepare(ctx context.Context) ([]string, error) {
	system := filepath.Join(l.Root, "data", l.Instance)
	data := filepath.Join(system, "common")
	if l.versions {
		data = filepath.Join(system, strconv.FormatUint(uint64(l.rev), 10))
	}
	set := []string{
		"LULL_INSTANCE=" + l.Instance,
		"LULL_REVISION=" + strconv.FormatUint(uint64(l.rev), 10),
		"LULL_PACKAGE_DIR=" + l.packageDir(),
		"LULL_DATA=" + data,
		"LULL_COMMON=" + filepath.Join(system, "common"),
	}
	if l.App != "" {
		set = append(set, "LULL_APP="+l.App)
	}
	if l.Bus != "system" { // where lull finds the agent
		set = append(set, "LULL_BUS="+l.Bus)
	}
	if l.ofUser { // a service of the agent's has LULL_DATA, and perhaps no home
		userData, userCommon, err := l.userData(ctx)
		if err != nil {
			return nil, err
		}
		set = append(set, "LULL_USER_DATA="+userData, "LULL_USER_COMMON="+userCommon)
	}
	return l.environment(set), nil
}

// environment is that of this process, with other places.
func (l *launch) environment(set []string) []string {
	env := make([]string, 0, len(set)+64)
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !ours[name] && (l.Service == "" || name != "NOTIFY_SOCKET") {
			env = append(env, v)
		}
	}
	return append(env, set...)
}

// ours are the variables that are about this launch, whatever they were before.
var ours = map[string]bool{
	"LULL_INSTANCE": true, "LULL_REVISION": true, "LULL_PACKAGE_DIR": true, "LULL_DATA": true, "LULL_COMMON": true,
	"LULL_USER_DATA": true, "LULL_USER_COMMON": true, "LULL_APP": true, ExecFDEnv: true,
}
