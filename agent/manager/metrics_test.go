package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/doctor"
	"github.com/lull/lull/agent/lib/errkind"
)

// TestMetricsOfPolicy: policy names the file of the metrics, a refused policy changes
// nothing, and the doctor shows why a file is not written.
func TestMetricsOfPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "lull.prom")
	m := newManager(t, "metrics: {textfile: "+path+"}\n")
	seen := func() (state, text string) {
		for _, c := range m.Doctor().Examine(t.Context()) {
			if c.Name == "metrics" {
				state, text = c.State, c.Seen
			}
		}
		return state, text
	}
	if state, text := seen(); state != doctor.OK || text != "written to "+path {
		t.Errorf("before a write the doctor reports %s: %s; want state %v and text %q", state, text, doctor.OK, "written to "+path)
	}
	set := func(text string) error {
		t.Helper()
		if err := os.WriteFile(m.settings.PolicyFile(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return m.Reload()
	}
	if err := set("metrics: {textfile: lull.prom}\n"); !errkind.Is(err, errkind.BadPolicy) || m.metricsPath() != path {
		t.Errorf("a relative path: %v, and the file is %q, want %q", err, m.metricsPath(), path)
	}
	m.Worked = m.cancel // after the first write
	m.followMetrics()
	if state, text := seen(); state != doctor.Warn || !strings.HasPrefix(text, "cannot write the metrics in "+path+": ") {
		t.Errorf("without the directory: got %s: %q from the doctor, want %s: \"cannot write the metrics in %s: …\"", state, text, doctor.Warn, path)
	}
	if err := set(""); err != nil || m.metricsPath() != "" {
		t.Errorf("without metrics in the policy: got %v and file %q, want no error and none", err, m.metricsPath())
	}
	if state, text := seen(); state != "" {
		t.Errorf("without metrics: got %s: %q from the doctor, want no state", state, text)
	}
}
