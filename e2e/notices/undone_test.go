package notices_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestUndone: the user whose application the update waited for gets one notice that it did not
// work, and that the version before is there.
func TestUndone(t *testing.T) {
	s := set(t)
	dir := s.Path("v4")
	text := fmt.Sprintf("name: %s\nversion: \"4\"\ntitle: Asking\nsummary: does not work\napps: [{name: app, command: [app]}]\nhooks: {health: [sick]}\n", name)
	err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/lull.yaml", []byte(text), 0o644),
		os.WriteFile(dir+"/app", []byte("#!/bin/sh\n"), 0o755), os.WriteFile(dir+"/sick", []byte("#!/bin/sh\necho nothing works\nexit 3\n"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	s.publish(4)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("got %v, want exit status 75", r)
	}
	s.untilShown(1, "Asking 4 is ready")
	if err := os.WriteFile(s.common("do"), []byte("quit\n"), 0); err != nil {
		t.Fatal(err)
	}
	n := s.untilShown(1, "The update of Asking did not work")
	if !strings.Contains(n.Body, "It is version 1 again") {
		t.Errorf("got %+v, want %q in the body", n, "It is version 1 again")
	}
	s.desk.CloseAll()
	if r := s.Lull("refresh", name); r.Code != 1 || !strings.Contains(r.Stderr, "nothing works") {
		t.Errorf("got %v, want exit status 1 and %q in the error output", r, "nothing works")
	}
	s.untilShown(0, "") // the second attempt is no news
}
