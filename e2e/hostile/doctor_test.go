package hostile_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestDoctorSaysWhatIsWrongWithTheAgent: it runs, is stopped, runs again, and has gone.
func TestDoctorSaysWhatIsWrongWithTheAgent(t *testing.T) {
	require.Root(t)
	require.Program(t, "dbus-daemon", "cc", "setpriv")
	require.Unified(t)
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.Configure("policy.yaml", "schedule: {check: 0}\n")
	agent := w.StartAgent()
	sees := func(code int, words ...string) {
		t.Helper()
		r := w.Lull("doctor")
		for _, word := range words {
			if !strings.Contains(r.Text(), word) {
				t.Errorf("%q is missing in\n%s", word, r.Text())
			}
		}
		if code >= 0 && r.Code != code {
			t.Errorf("status %d, want %d\n%s", r.Code, code, r.Text())
		}
	}
	sees(-1, "ok    agent", "answers")
	agent.Signal(syscall.SIGSTOP)
	sees(69, "fail  agent", "but does not answer: it is stopped or stuck", "the agent does not answer")
	agent.Signal(syscall.SIGCONT)
	sees(-1, "ok    agent")
	w.StopAgent()
	sees(69, "fail  agent", "is not running", "the agent is not running")
}
