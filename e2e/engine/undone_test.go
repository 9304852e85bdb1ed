package engine_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUndoneIsShown: an update that was undone as unhealthy is shown by every command that
// shows the application, by the doctor, on the bus and in the metrics: with its reason, the
// last lines of the hook, the next attempt and the way to try now. The version that works
// ends all of that.
func TestUndoneIsShown(t *testing.T) {
	const name = "org.lull.sick"
	s := set(t, "")
	metrics := filepath.Join(s.Path(), "lull.prom")
	s.Configure("policy.d/20-metrics.yaml", "metrics: {textfile: "+metrics+"}\n")
	publish := func(version, health string) {
		s.publish(app(name, version, "hooks: {health: [health]}\n"), map[string]string{"app": forever, "health": health})
	}
	publish("1", "exit 0")
	s.Begin()
	s.MustLull("install", name)
	publish("2", "echo the first line; echo the database is not there; exit 7")
	if r := s.Lull("refresh", name); r.Code != 1 || !strings.Contains(r.Stderr, "the database is not there") {
		t.Errorf("it is not undone: %v", r)
	}
	p, _ := s.API.Package(name)
	if reason := p.Str("UndoneReason"); p.Str("UndoneVersion") != "2" || !strings.Contains(reason, "the database is not there") || !strings.Contains(reason, "exit status 7") {
		t.Errorf("the properties are %q, %q; want undone version %q, %q in the reason and %q in the reason", p.Str("UndoneVersion"), reason, "2", "the database is not there", "exit status 7")
	}
	at, next := time.UnixMicro(int64(p.Num("UndoneAt"))), time.UnixMicro(int64(p.Num("NextTry")))
	if age := time.Since(at); age < 0 || age > limit || next.Sub(at).Round(time.Minute) != 8*time.Hour {
		t.Errorf("it was undone at %v and is retried at %v, want a time of the last %v, and a retry 8 hours later", at, next, limit)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"list"}, []string{"2 was undone, retried "}},
		{[]string{"status"}, []string{name + " 1 → 2", "the database is not there", "lull refresh " + name + " tries now"}},
		{[]string{"status", name}, []string{name + " 1 → 2", "the database is not there", "lull refresh " + name + " tries now"}},
		{[]string{"pending"}, []string{name + " 1 → 2", "the database is not there", "lull refresh " + name + " tries now"}},
		{[]string{"doctor"}, []string{"the update of " + name + " to 2 was undone: ", "the database is not there", "lull refresh " + name + " tries now"}},
		{[]string{"history", name}, []string{"1 → 2", "undone", "the database is not there"}},
	} {
		text := strings.Join(strings.Fields(s.Lull(c.args...).Stdout), " ")
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("lull %s: want %q in\n%s", strings.Join(c.args, " "), w, text)
			}
		}
	}
	series := `lull_refresh_undone_timestamp_seconds{instance="` + name + `",version="2"} `
	s.UntilFile("the metrics have it", limit, metrics, func(text string) (bool, string) { return strings.Contains(text, series), text })

	publish("3", "exit 0")
	s.MustLull("refresh", name)
	if p, _ := s.API.Package(name); p.Str("Version") != "3" || p.Str("UndoneVersion") != "" || p.Str("UndoneReason") != "" || p.Num("NextTry") != 0 {
		t.Errorf("after a version that works it is %v; want version %q, no undone version, no undone reason and next try 0", p.Props, "3")
	}
	for _, args := range [][]string{{"list"}, {"status"}, {"pending"}, {"doctor"}} {
		if r := s.Lull(args...); strings.Contains(r.Stdout, "undone") {
			t.Errorf("it is still shown: %v", r)
		}
	}
	s.UntilFile("the metrics forget it", limit, metrics, func(text string) (bool, string) {
		return text != "" && !strings.Contains(text, "lull_refresh_undone_timestamp_seconds{"), text
	})
}
