package introspection_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/sample"
)

// TestEphemeralShowsItsDownload: on a terminal a bar shows how much of the
// package is fetched; afterwards the application has the terminal for itself.
func TestEphemeralShowsItsDownload(t *testing.T) {
	s := set(t)
	sample.Write(s, s.Path(sample.V1), sample.V1)
	sample.Ballast(s, s.Path(sample.V1), 3_000_000)
	s.Publish(s.Path(sample.V1))
	s.start()
	s.gate.close()
	p := s.Admin.OnScreen("run", "--ephemeral", sample.Name)
	s.Until("a part of it is shown", limit, func() (bool, string) {
		said := p.Log()
		return strings.Contains(said, "MB of ") && strings.Contains(said, sample.Name), said
	})
	s.gate.open()
	s.Until("it runs", limit, func() (bool, string) { return strings.Contains(p.Log(), "notes 1.0 is running"), p.Log() })
	if _, after, _ := strings.Cut(p.Log(), "is running"); strings.Contains(after, "MB of ") {
		t.Errorf("the bar goes on beside the application: got %q, want no \"MB of \" after \"is running\"", p.Log())
	}
	p.Stop()
}

// TestEphemeralInterrupted: Ctrl-C while a package is fetched ends a loop of runs.
func TestEphemeralInterrupted(t *testing.T) {
	s := set(t)
	sample.Write(s, s.Path(sample.V1), sample.V1)
	sample.Ballast(s, s.Path(sample.V1), 3_000_000)
	s.Publish(s.Path(sample.V1))
	s.start()
	s.gate.close()
	for range 5 { // the end by a signal must not depend on which thread gets it
		p := s.Admin.Start("bash", "-c", `for i in 1 2 3; do echo "begins $i"; lull run --ephemeral `+sample.Name+`; echo "status $?"; done`)
		s.Until("it fetches", limit, func() (bool, string) {
			return len(rows(t, s.API.Property("", "Space.Transfers"))) > 0, p.Log()
		})
		if err := syscall.Kill(-p.PID, syscall.SIGINT); err != nil { // as a terminal does
			t.Fatal(err)
		}
		if _, err := p.Wait(t.Context(), limit); err != nil {
			t.Fatalf("the loop goes on: %v: %s", err, p.Log())
		}
		if log := p.Log(); strings.Contains(log, "begins 2") || strings.Contains(log, "status ") {
			t.Errorf("the loop went on after Ctrl-C: got %s, want no second round and no status", log)
		}
		s.Until("the transfer is over", limit, func() (bool, string) {
			return len(rows(t, s.API.Property("", "Space.Transfers"))) == 0, p.Log()
		})
	}
}
