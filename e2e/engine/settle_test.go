package engine_test

import (
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestServicesSettle: an update whose service ends soon after its start is undone and
// shown as that; one whose service ends later is not, and the service is shown as failed, and counted in the metrics.
func TestServicesSettle(t *testing.T) {
	const name = "org.lull.served"
	s := set(t, "")
	metrics := s.Path("lull.prom")
	s.Configure("policy.d/20-metrics.yaml", "metrics: {textfile: "+metrics+"}\n")
	s.publish(app(name, "1", service), map[string]string{"app": forever, "daemon": logging("1")})
	s.Begin()
	s.MustLull("install", name)
	s.publish(app(name, "2", service), map[string]string{"app": forever, "daemon": "sleep 0.2; exit 3"})
	r := s.Lull("refresh", name)
	if want := "service daemon of " + name + " running: it has ended: exit status 3"; r.Code != 1 || !strings.Contains(r.Stderr, want) {
		t.Errorf("want %q, got %v", want, r)
	}
	if p, _ := s.API.Package(name); p.Str("Version") != "1" {
		t.Errorf("version %s is current, want 1", p.Str("Version"))
	}

	// It goes on for longer than launches wait, and until it is asked to end.
	end := s.Path("end")
	s.publish(app(name, "3", service), map[string]string{"app": forever, "daemon": "while ! test -e " + end + "; do sleep 0.2; done; exit 4"})
	s.MustLull("refresh", name)
	s.Admin.Must("touch", end)
	s.Until("the service is shown as failed", limit, func() (bool, string) {
		text := ""
		for _, c := range [][]string{{"list"}, {"status", name}, {"doctor"}} {
			r := s.Lull(c...)
			if text += r.Text(); !strings.Contains(r.Stdout, "daemon") || !strings.Contains(r.Stdout, "failed") {
				return false, text
			}
		}
		return true, text
	})
	if p, _ := s.API.Package(name); p.Str("Version") != "3" {
		t.Errorf("version %s is current, want 3", p.Str("Version"))
	}
	s.Watch(s.Path())
	s.UntilFile("the metrics count it", limit, metrics, func(text string) (bool, string) {
		return strings.Contains(text, `lull_services_failed{instance="`+name+`",version="3"} 1`), text
	})
}

// TestServicesReport: an update whose service reports when it is ready is over when it
// has, however long that takes; one whose service ends before is undone.
func TestServicesReport(t *testing.T) {
	const name = "org.lull.reports"
	const reporting = service + "    ready: notify\n"
	require.Program(t, "systemd-notify")
	s := set(t, "")
	ready, started := s.Path("ready"), s.Path("started")
	report := "echo $LULL_REVISION >>" + started + "; while ! test -e " + ready + "; do sleep 0.1; done; systemd-notify --ready STATUS=ready; exec sleep infinity"
	s.publish(app(name, "1", service), map[string]string{"app": forever, "daemon": forever})
	s.Begin()
	s.MustLull("install", name)

	s.publish(app(name, "2", reporting), map[string]string{"app": forever, "daemon": report})
	s.Watch(s.Path())
	end := s.Admin.StartLull(nil, "refresh", name)
	s.UntilFile("the new service runs", limit, started, func(text string) (bool, string) { return text == "2\n", text })
	if o, _ := s.API.Refresh(name, "2"); o.Str("Step") != "start-services" || end.Ended() {
		t.Errorf("before the service is ready the refresh is %s at %s and has ended: %v; want it at start-services, not ended", o.Str("State"), o.Str("Step"), end.Ended())
	}
	s.Admin.Must("touch", ready)
	s.UntilState(name, "2", "done")
	if p, _ := s.API.Package(name); p.Str("Version") != "2" {
		t.Errorf("version %s is current, want 2", p.Str("Version"))
	}

	s.publish(app(name, "3", reporting), map[string]string{"app": forever, "daemon": "sleep 0.2; exit 3"})
	r := s.Lull("refresh", name)
	if want := "service daemon of " + name + ": it ended before it was ready: exit status 3"; r.Code != 1 || !strings.Contains(r.Stderr, want) {
		t.Errorf("want %q, got %v", want, r)
	}
	if p, _ := s.API.Package(name); p.Str("Version") != "2" {
		t.Errorf("version %s is current, want 2", p.Str("Version"))
	}
	s.MustLull("remove", name)
}
