package notices_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/userd/notify"
)

// TestExpires: a server that takes a notice away after a second has it back when the
// policy's next reminder is due, and not before: not when the helper starts again.
func TestExpires(t *testing.T) {
	s := setWith(t, rig.SceneOptions{
		Options: rig.Options{Dunst: "[expires]\n    appname = \"*\"\n    timeout = 1s\n    override_dbus_timeout = 1s\n"},
		Policy:  "defaults: {max-postponement: 2h}\nschedule: {reminders: [7199s]}\n", // a second after the refresh has begun to wait
	})
	s.publish(3)
	if r := s.Lull("refresh", name); r.Code != 75 {
		t.Fatalf("refresh: got %v, want exit status 75", r)
	}
	expires := func(what string, n int) {
		t.Helper()
		s.Until(what, limit, func() (bool, string) {
			all := s.desk.Notices()
			return len(all) == n && all[n-1].Closed, s.desk.String()
		})
	}
	expires("the notice has expired", 1)

	// The helper has heard of it, too.
	s.Until("the helper remembers that the notice has expired", limit, func() (bool, string) {
		_, memory := s.memory(t)
		return !memory[name].Up, fmt.Sprintf("%+v", memory)
	})

	s.helper.Stop()
	s.helper = s.StartHelper()
	s.helper.Stop() // it has looked for what waits before it was ready
	if n := len(s.desk.Notices()); n != 1 {
		t.Errorf("a helper that starts again has shown %d notices, want 1:\n%s", n, s.desk)
	}

	// Notices of an application are hours apart: the one that has expired is a day old now.
	file, memory := s.memory(t)
	if memory[name].Shown.IsZero() {
		t.Fatalf("the helper remembers %+v, want when the notice of %s was shown", memory, name)
	}
	m := memory[name]
	m.Shown = m.Shown.Add(-24 * time.Hour)
	memory[name] = m
	b, err := json.Marshal(memory)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.helper = s.StartHelper()
	expires("the notice has come back and expired", 2)
	if all := s.desk.Notices(); all[1].Summary != all[0].Summary {
		t.Errorf("it comes back as %q, want %q", all[1].Summary, all[0].Summary)
	}
}

// memory returns what the helper remembers of notices, and its file.
func (s *scene) memory(t *testing.T) (file string, memory map[string]notify.Memory) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.User.Runtime(), "lull-userd", "notices*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the helper remembers its notices in %q (%v), want one file", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err == nil {
		err = json.Unmarshal(b, &memory)
	}
	if err != nil {
		t.Fatalf("the helper remembers %s: %v", b, err)
	}
	return files[0], memory
}
