package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// logging is a service that notes its version and goes on.
func logging(version string) string {
	return fmt.Sprintf("echo %s >>\"$LULL_COMMON/log\"\n%s", version, forever)
}

// TestStuck has undoing fail for good, at each step that undoes something: the refresh
// is stuck and shown as that, launches and services get the old revision, other
// applications are not concerned, a restart changes nothing, and one command leaves.
func TestStuck(t *testing.T) {
	for _, step := range []string{"link", "stop-services"} {
		t.Run(step, func(t *testing.T) {
			s := set(t, "")
			s.Configure("policy.d/20-metrics.yaml", "metrics: {textfile: "+s.Path("lull.prom")+"}\n")
			stuckAt(t, s, step)
		})
	}
}

func stuckAt(t *testing.T, s *scene, step string) {
	const name, other = "org.lull.sick", "org.lull.other"
	s.publish(app(name, "1", service), map[string]string{"app": forever, "daemon": logging("1")})
	s.publish(app(other, "1", ""), map[string]string{"app": forever})
	fault := "LULL_FAULT=refresh.health.before#2:error,refresh." + step + ".undo.before#*:error"
	s.Begin(fault)
	s.MustLull("install", name)
	s.publish(app(name, "2", service), map[string]string{"app": forever, "daemon": logging("2")})
	r := s.Lull("refresh", name)
	if want := "lull: cannot undo the refresh of " + name + ": "; r.Code != 1 || !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stderr, "hint: lull refresh --retry "+name+" undoes it") {
		t.Errorf("want %q and a hint, got %v", want, r)
	}
	s.isStuck(t, name)

	// Another application is installed, refreshed and removed meanwhile.
	s.MustLull("install", other)
	s.publish(app(other, "2", ""), map[string]string{"app": forever})
	s.MustLull("refresh", other)
	s.MustLull("remove", other)

	// It survives a restart, and a boot that restarts the service.
	s.StopAgent()
	if err := os.RemoveAll(filepath.Join(s.RunDir, "runctl")); err != nil {
		t.Fatal(err)
	}
	s.StartAgent(fault)
	s.UntilState(name, "2", "stuck")
	s.isStuck(t, name)
	s.refused(75, "cannot remove "+name+": an earlier refresh of it could not be undone: cannot undo the refresh of "+name+": fault point refresh."+step+".undo.before", "remove", name)

	// The cause stays: it is stuck again. Then the cause is removed.
	if r := s.Lull("refresh", "--retry", name); r.Code != 1 || !strings.Contains(r.Stderr, "cannot undo") {
		t.Errorf("retried in vain: got %v, want exit status 1 and %q in the error output", r, "cannot undo")
	}
	s.StopAgent()
	s.StartAgent()
	s.UntilState(name, "2", "stuck")
	s.says("the refresh of "+name+" is undone: version 1 is in use", "refresh", "--retry", name)
	s.refused(1, "cannot retry the refresh of "+name+": none is stuck", "refresh", "--retry", name)
	s.MustLull("refresh", name)
	s.runs(name, 3) // numbers are not reused
}

// isStuck checks all places that show it, and that a launch gets version 1.
func (s *scene) isStuck(t *testing.T, name string) {
	t.Helper()
	if r := s.Lull("list"); !strings.Contains(r.Stdout, "stuck: see lull pending") {
		t.Errorf("it is not shown: %v", r)
	}
	for _, c := range [][]string{{"status", name}, {"status"}, {"pending"}, {"doctor"}} {
		if r := s.Lull(c...); !strings.Contains(strings.Join(strings.Fields(r.Stdout), " "), "cannot undo the refresh of") {
			t.Errorf("it is not shown: %v", r)
		}
	}
	if r := s.Lull("doctor"); r.Code == 0 {
		t.Errorf("doctor is content: got %v, want a failure", r)
	}
	s.UntilFile("the metric is there", limit, s.Path("lull.prom"), func(text string) (bool, string) {
		return strings.Contains(text, "lull_refresh_stuck{instance=\""+name+"\",version=\"2\"} 1"), text
	})
	s.Until("the service of version 1 runs", limit, func() (bool, string) {
		b, err := os.ReadFile(filepath.Join(s.Store, "data", name, "common", "log"))
		p, _ := s.API.Package(name)
		text := fmt.Sprint(p.Props["Services"], string(b), err)
		return strings.HasSuffix(string(b), "1\n") && strings.Contains(text, "active"), text
	})
	s.runs(name, 1)
}

// runs has the application start in a revision, and end.
func (s *scene) runs(name string, revision int) {
	s.Helper()
	run := s.User.StartLull(nil, "run", name)
	s.Until(fmt.Sprintf("revision %d of %s runs", revision, name), limit, func() (bool, string) {
		p, _ := s.API.Package(name)
		now, _ := p.Props["Revision"].Value().(uint32)
		list := rig.Processes(p.Props["Processes"])
		return now == uint32(revision) && len(list) > 0, fmt.Sprint(now, list, run.Log())
	})
	run.Stop()
}
