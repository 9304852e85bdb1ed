package container_test

import (
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
	if spies() {
		spy()
	}
	if os.Getenv(clientEnv) != "" {
		client()
		return
	}
	if os.Getenv(racerEnv) != "" {
		racer()
		return
	}
	rig.Main(m.Run)
}

// insideEnv marks the inside of a container that TestWithSystemd has booted.
const insideEnv = "LULL_IN_CONTAINER"

// inside are the tests that need systemd as PID 1: where they are, and as whom
// they run.
var inside = []struct {
	pkg, run string
	login    bool // in a session of the ordinary user
}{
	{"./agent/runs", "^(TestScopeOfSystemd|TestScopeOfLingeringUser|TestScopePlaceBySystemd)$", false},
	{"./agent/services", "^(TestSystemdOfSystem|TestDirect|TestHooksOfSystemd)$", false},
	{"./agent/services", "^(TestSystemdOfUser)$", true},
	{"./e2e/container", "^(TestLaunchesWithoutAgent|TestLaunchFromAnotherPIDNamespace|TestServicesThroughRefreshes|TestServicesSettle|TestSystemUpdate)$", false},
	{"./e2e/container", "^(TestSessionClasses|TestWeakLocks)$", false},
	{"./e2e/container", "^(TestMovedApplications|TestMovers|TestStrangers|TestRun0)$", false},
	{"./e2e/container", "^(TestLogOut|TestSystemUnits|TestUserManagers)$", false},
	{"./e2e/container", "^(TestRootless)$", true},
	{"./e2e/container", "^(TestInstalled|TestFiles|TestApt|TestRights)$", false}, // last: what they install stays
	{"./e2e/container", "^(TestPassword|TestResignTimer)$", false},
	{"./e2e/container", "^(TestHomes|TestBothAgents)$", false},
}

// TestWithSystemd runs them with the unified cgroup hierarchy alone and with
// the hybrid one.
func TestWithSystemd(t *testing.T) {
	require.Container(t)
	bin, fault, tree := rig.Binaries(t, ""), rig.Binaries(t, "faultpoint"), rig.Installed(t, "")
	dir := t.TempDir()
	built := map[string]bool{}
	for _, in := range inside {
		if built[in.pkg] {
			continue
		}
		built[in.pkg] = true
		cmd := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, filepath.Base(in.pkg)+".test"), in.pkg)
		cmd.Dir = rig.Module()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, shape := range []struct {
		name    string
		unified bool
	}{{"unified", true}, {"hybrid", false}} {
		t.Run(shape.name, func(t *testing.T) {
			c := rig.Boot(t, shape.unified, bin+":/opt/lull", dir+":/opt/tests", rig.Module()+":/opt/source", tree+":"+treeDir, fault+":"+faultDir)
			env := []string{insideEnv + "=1", "LULL_BIN=/opt/lull", "LULL_SOURCE=/opt/source", "CI=" + os.Getenv("CI"), launchesEnv + "=" + os.Getenv(launchesEnv)}
			launches, _ := strconv.Atoi(os.Getenv(launchesEnv)) // a thousand of them take longer
			patience := 5*time.Minute + time.Duration(launches)*time.Second
			for _, in := range inside {
				t.Run(filepath.Base(in.pkg)+" "+in.run, func(t *testing.T) {
					start := func(argv ...string) rig.Result { return c.Service(patience, append(env, "HOME=/root"), argv...) }
					if in.login {
						start = func(argv ...string) rig.Result { return c.Login(patience, env, argv...) }
					}
					r := start("/opt/tests/"+filepath.Base(in.pkg)+".test", "-test.v", "-test.run="+in.run)
					passed := strings.Count("\n"+r.Stdout, "\n--- PASS: ")
					if r.Code != 0 || passed != strings.Count(in.run, "|")+1 {
						t.Errorf("%d tests passed: %v; want exit status 0 and passed %v", passed, r, strings.Count(in.run, "|")+1)
					}
					t.Logf("%d tests passed in %v", passed, r.Took.Round(time.Millisecond))
				})
			}
		})
	}
}

// here skips what TestWithSystemd runs in a container.
func here(t *testing.T) {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		t.Skip("this part is for the inside of a container: TestWithSystemd runs it")
	}
}
