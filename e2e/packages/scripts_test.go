package packages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	mallory    = "mallory"
	malloryUID = 42001 // no user of the host has this number

	// patience is how long anything may take on a busy machine.
	patience = 2 * time.Minute
)

// where is where the container has the packages.
const where = "/opt/packages"

// steps are the ways of both kinds of packages, in order.
var steps = []struct {
	name, run string
	users     bool // users' managers are notified
	gone      bool // afterwards nothing of lull is there
}{
	{"dpkg installs", "dpkg --install " + where + "/1.deb", true, false},
	{"dpkg upgrades", "dpkg --install " + where + "/2.deb", true, false},
	{"dpkg fails to upgrade, with more descriptors", "bash -c 'exec 3<>/dev/tty 7>&1; ! dpkg --install " + where + "/bad.deb'", true, false},
	{"dpkg removes", "dpkg --remove lull", true, true},
	{"dpkg purges what was removed", "dpkg --purge lull", false, true},
	{"dpkg installs again", "dpkg --install " + where + "/2.deb", true, false},
	{"dpkg purges", "dpkg --purge lull", true, true},
	{"rpm installs", "rpm --install --nodeps " + where + "/1.rpm", true, false},
	{"rpm upgrades", "rpm --upgrade --nodeps " + where + "/2.rpm", true, false},
	{"rpm reinstalls", "rpm --reinstall --nodeps " + where + "/2.rpm", true, false},
	{"rpm removes", "rpm --erase lull", true, true},
}

// TestScriptsGiveNothingAway: while root installs, upgrades and removes the
// packages at a terminal, no process of another user has that terminal or a
// descriptor of root's. Mallory stops her systemd, so that the work in it
// waits, and can be checked. Otherwise the scripts do their work: her manager
// has the units of the installed package, and none of a removed one. The scripts are also
// run in a root that is not booted.
func TestScriptsGiveNothingAway(t *testing.T) {
	require.Container(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"deb", "rpm"} {
		for _, n := range []string{"1", "2"} {
			if err := os.Rename(rig.Repacked(t, format, n+".0.0"), filepath.Join(dir, n+"."+format)); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, "2.deb"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bad.deb"), whole[:len(whole)/2], 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Run("rpm in a root", func(t *testing.T) { inARoot(t, dir) })
	c := rig.BootContainer(t, rig.ContainerOptions{Set: suite.RPM, ReadOnly: []string{dir + ":" + where}})
	r := c.Service(patience, nil, "sh", "-c", fmt.Sprintf("useradd --create-home --uid %d %s && loginctl enable-linger %[2]s && systemctl start user@%[1]d.service", malloryUID, mallory))
	if r.Code != 0 {
		t.Fatalf("got %v, want exit status 0", r)
	}
	manager, err := findManager(c)
	if err != nil {
		t.Fatal(err)
	}

	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) {
			if err := syscall.Kill(manager, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			goOn := func() { syscall.Kill(manager, syscall.SIGCONT) }
			defer goOn()
			ended := make(chan rig.Result, 1)
			go func() { ended <- terminal(t, c, step.run) }()
			seen := watch(t, c, manager, goOn, ended)
			if step.users != seen {
				t.Errorf("something was done in mallory's systemd: got %v, want %v", seen, step.users)
			}
			goOn()
			// Units of hers, loaded in any way.
			r := c.Run("systemd-run", "--quiet", "--pipe", "--wait", "--collect", fmt.Sprintf("--uid=%d", malloryUID), fmt.Sprintf("--setenv=XDG_RUNTIME_DIR=/run/user/%d", malloryUID),
				"systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "lull*")
			system := c.Run("systemctl", "list-units", "--all", "--plain", "--no-legend", "lull*")
			if r.Code != 0 || system.Code != 0 {
				t.Fatalf("got %v %v, want exit status 0 and exit status 0", r, system)
			}
			hers, theirs := columns(r.Stdout), columns(system.Stdout)
			if step.gone && (r.Stdout != "" || system.Stdout != "") {
				t.Errorf("these units are left: %s%s", r.Stdout, system.Stdout)
			}
			if !step.gone && (!strings.Contains(hers, "lull-userd.path loaded active") || !strings.Contains(theirs, "lulld.service loaded active")) {
				t.Errorf("these units are there: %s%s, want lull-userd.path of the user and lulld.service, loaded and active", r.Stdout, system.Stdout)
			}
		}) {
			t.FailNow()
		}
	}
}

// columns makes a table one with a blank between its columns.
func columns(table string) string { return strings.Join(strings.Fields(table), " ") }

// terminal runs a command as root at a terminal of its own.
func terminal(t *testing.T, c *rig.Container, command string) rig.Result {
	t.Helper()
	r := c.Run("script", "--quiet", "--return", "--command", command, "/dev/null")
	if r.Code != 0 {
		t.Errorf("got %v, want exit status 0", r)
	}
	return r
}

// watch checks all processes of mallory's until the command at the terminal has
// ended; it reports whether one of them waited for her systemd. When one does, her
// systemd goes on.
func watch(t *testing.T, c *rig.Container, manager int, goOn func(), ended <-chan rig.Result) (seen bool) {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case <-ended:
			return seen
		case <-end:
			t.Fatal("it has not ended")
		default:
		}
		roots, hers := lookAround(c)
		for _, p := range hers {
			if p.terminal != "0" {
				t.Errorf("process %d (%s) of mallory's has root's terminal", p.pid, p.name)
			}
			for what := range p.open {
				if strings.HasPrefix(what, "terminal ") || roots[what] {
					t.Errorf("process %d (%s) of mallory's has %s open, as root has, want no terminal and nothing of root's", p.pid, p.name, what)
				}
			}
			if p.name == "systemctl" {
				if !seen {
					t.Logf("process %d (%s) waits for her systemd with %v", p.pid, p.name, p.open)
				}
				seen = true
				goOn()
			}
		}
		if t.Failed() {
			goOn()
			<-ended
			return seen
		}
	}
}
