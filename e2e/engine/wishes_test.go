package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// TestWishes: wishes of the installed version count if the administrator has
// decided nothing; a decision applies to the waiting refresh.
func TestWishes(t *testing.T) {
	const name = "org.lull.wishes"
	s := set(t, "")
	publish := func(version, wish string) {
		s.publish(app(name, version, wish), map[string]string{"app": forever})
	}
	publish("1", "refresh: {refresh-pending: block, max-postponement: 60d}\n")
	s.Begin()
	s.MustLull("install", name)
	run, waits := s.waiting(name, "2", func() { publish("2", "refresh: {mode: side-by-side}\n") })
	marker := filepath.Join(s.RunDir, "runctl", "lull."+name+".inhibited")
	if b, err := os.ReadFile(marker); err != nil || strings.TrimSpace(string(b)) != "refresh-pending" {
		t.Errorf("launches are not held back: %q, %v", b, err)
	}
	since, deadline := waits.Props["Since"].Value().(uint64), waits.Props["Deadline"].Value().(uint64)
	if days := (deadline - since) / 1e6 / 3600 / 24; days != 60 {
		t.Errorf("it may wait for %d days, want 60", days)
	}
	if text := s.MustLull("policy", "explain", name).Stdout; !strings.Contains(text, "max-postponement") || strings.Count(text, "wish of the package") != 2 {
		t.Errorf("policy explain: want max-postponement and two wishes of the package, got\n%s", text)
	}

	s.Configure("policy.d/20-decided.yaml", "packages: {"+name+": {refresh-pending: allow}}\n")
	s.MustLull("policy", "reload")
	s.UntilFile("the marker goes", limit, marker, func(text string) (bool, string) { return text == "", text })
	if text := s.MustLull("policy", "explain", name).Stdout; strings.Count(text, "wish of the package") != 1 || !strings.Contains(text, "20-decided.yaml:1; the package wishes for block") {
		t.Errorf("policy explain: want one wish of the package, and the other decided by 20-decided.yaml:1, got\n%s", text)
	}
	run.Stop()
	s.UntilState(name, "2", "done")

	// Version 2 is there now, and its own wish counts.
	run = s.User.StartLull(nil, "run", name)
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package(name)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	publish("3", "")
	s.MustLull("refresh", name)
	if run.Ended() {
		t.Errorf("the application has ended, want it to run beside version 3: %s", run.Log())
	}
	s.Configure("policy.d/20-decided.yaml", "defaults: {package-wishes: false}\n")
	s.MustLull("policy", "reload")
	run.Stop()
}

// TestContainers: a service that manages containers has their processes in cgroups of
// their own and wishes for mode endure. A refresh restarts the service and leaves the
// containers, which keep the files that they run from until they end.
func TestContainers(t *testing.T) {
	const name = "org.lull.hypervisor"
	s := set(t, "defaults: {keep-revisions: 1}\n")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	below, err := os.MkdirTemp(require.Unified(t), "lull-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(below); err != nil {
			t.Errorf("the container's cgroup stays: %v", err)
		}
	})
	publish := func(version string) {
		// One container, in a cgroup of its own, which the next daemon finds running.
		s.publish(app(name, version, service+"refresh: {mode: endure}\n"), map[string]string{
			"app": forever,
			"daemon": `[ -e "$LULL_COMMON/pid" ] || { "$LULL_PACKAGE_DIR/container" 100000 & echo $! >` + below + `/cgroup.procs; echo $! >"$LULL_COMMON/pid.new"; mv "$LULL_COMMON/pid.new" "$LULL_COMMON/pid"; }
echo ` + version + ` >"$LULL_COMMON/version.new"; mv "$LULL_COMMON/version.new" "$LULL_COMMON/version"
` + forever,
		}, map[string][]byte{"container": program})
	}
	publish("1")
	s.Begin()
	s.MustLull("install", name)
	common := filepath.Join(s.Store, "data", name, "common")
	read := func(file, want string) string {
		t.Helper()
		var text string
		s.UntilFile("the service writes "+file, limit, filepath.Join(common, file), func(got string) (bool, string) {
			text = strings.TrimSpace(got)
			return text != "" && (want == "" || text == want), got
		})
		return text
	}
	read("version", "1")
	pid, err := strconv.Atoi(read("pid", ""))
	if err != nil {
		t.Fatal(err)
	}
	container, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(container)
	defer unix.PidfdSendSignal(container, unix.SIGKILL, nil, 0)
	old, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	if err != nil || !strings.HasPrefix(old, s.Store) {
		t.Fatalf("the container executes %q, %v; want no error and old that begins with %q", old, err, s.Store)
	}

	publish("2")
	s.MustLull("refresh", name)
	read("version", "2")
	s.MustLull("gc")
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the container has ended: %v", err)
	}
	if now, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err != nil || now != old {
		t.Errorf("the container's program is %q, want %v, %v", now, old, err)
	}
	if why := s.MustLull("why", filepath.Base(filepath.Dir(old))).Stdout; !strings.Contains(why, strconv.Itoa(pid)) {
		t.Errorf("lull why: want the container, process %d, named, got\n%s", pid, why)
	}
	if err := unix.PidfdSendSignal(container, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	s.Until("the old version is collected", limit, func() (bool, string) {
		r := s.Lull("gc")
		_, err := os.Stat(old)
		return os.IsNotExist(err), r.String()
	})
}
