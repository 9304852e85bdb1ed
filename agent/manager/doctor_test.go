package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/lib/errkind"
)

// verdict returns the doctor's check of that name.
func verdict(t *testing.T, m *Manager, name string) doctor.Check {
	t.Helper()
	for _, c := range m.Doctor().Examine(t.Context()) {
		if c.Name == name {
			if (c.State == doctor.OK) != (c.Advice == "") {
				t.Errorf("got %+v, want advice exactly when the state is not %v", c, doctor.OK)
			}
			return c
		}
	}
	t.Fatalf("the doctor does not look at %s", name)
	return doctor.Check{}
}

// The doctor checks the policy in use and the policy in the files.
func TestDoctorLooksAtThePolicy(t *testing.T) {
	m := newManager(t, "schedule: {check: 0}\n")
	write := func(name, text string, at time.Time) {
		t.Helper()
		path := filepath.Join(m.Conf, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(state, seen string) {
		t.Helper()
		if c := verdict(t, m, "policy"); c.State != state || !strings.Contains(c.Seen, seen) {
			t.Errorf("%+v, want %s %s", c, state, seen)
		}
	}
	expect(doctor.OK, m.Conf)
	write("policy.d/10.yaml", "schedule: {check: 1h}\n", time.Now().Add(time.Minute))
	expect(doctor.Warn, "have changed since they were read")
	write("policy.d/10.yaml", "schedule: {check: 1h}\n", time.Now().Add(-time.Minute))
	if err := os.Chtimes(filepath.Join(m.Conf, "policy.d"), time.Time{}, time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	expect(doctor.OK, m.Conf)
	if m.Policy().Schedule.Check != time.Hour {
		t.Errorf("the schedule is %v, want %v", m.Policy().Schedule.Check, time.Hour)
	}
	write("policy.d/10.yaml", "schedule: {check: soon}\n", time.Now().Add(-time.Minute))
	if err := m.Reload(); !errkind.Is(err, errkind.BadPolicy) || !strings.Contains(err.Error(), "10.yaml:1: ") || m.refused() == nil {
		t.Errorf("Reload: got %v (%s, refused: %v), want an error of kind %s about 10.yaml:1 and a policy that is refused", err, errkind.KindOf(err), m.refused(), errkind.BadPolicy)
	}
	expect(doctor.Fail, "10.yaml:1: ")
	if m.Policy().Schedule.Check != time.Hour {
		t.Errorf("a policy that is refused holds: %v, want %v", m.Policy().Schedule.Check, time.Hour)
	}
}

// A reload makes the reserve as large as the policy requires; the doctor reports one that is
// too small.
func TestDoctorLooksAtTheReserve(t *testing.T) {
	m := newManager(t, "gc: {reserve: 0}\n")
	if c := verdict(t, m, "reserve"); c.State != doctor.OK || c.Seen != "none, as policy says" {
		t.Errorf("got %+v, want state %v and %q", c, doctor.OK, "none, as policy says")
	}
	if err := os.WriteFile(m.settings.PolicyFile(), []byte("gc: {reserve: 1MiB}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	if c := verdict(t, m, "reserve"); c.State != doctor.OK || c.Seen != "1.0 MB" {
		t.Errorf("got %+v, want state %v and %q", c, doctor.OK, "1.0 MB")
	}
	if err := os.Truncate(filepath.Join(m.Root, "reserve"), 1<<19); err != nil {
		t.Fatal(err)
	}
	if c := verdict(t, m, "reserve"); c.State != doctor.Warn || c.Seen != "524 kB of 1.0 MB" {
		t.Errorf("got %+v, want state %v and %q", c, doctor.Warn, "524 kB of 1.0 MB")
	}
}

func TestDoctorLooksAtCgroups(t *testing.T) {
	if c := verdict(t, newManager(t), "cgroups"); c.State != doctor.OK || !strings.HasPrefix(c.Seen, "v") {
		t.Errorf("got %+v, want state %v and a version of cgroups", c, doctor.OK)
	}
}
