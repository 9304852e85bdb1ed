package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/rig"
)

// testWholeData: two users are logged in, a third one's helper hangs, a fourth
// is logged out, and the home of a fifth is full. One refresh; it waits for no
// user, and afterwards each has whole data or a clear error.
func testWholeData(t *testing.T) {
	s := newStage(t, "")
	ann, bob, carl := s.NewUser("ann", true), s.NewUser("bob", true), s.NewUser("carl", false)
	dora, eve := s.NewUser("dora", true), s.NewUser("eve", true)
	small(t, dora, 1<<20)
	for _, a := range []*rig.Actor{ann, bob, carl, dora, eve} {
		s.save(a, "of "+a.Name)
	}
	if err := os.WriteFile(data(dora, "1/large"), make([]byte, 700<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	dora.Own(data(dora, "1/large"))
	helpers := map[string]*rig.Proc{}
	for _, a := range []*rig.Actor{ann, bob, dora, eve} {
		helpers[a.Name] = a.StartHelper()
	}
	helpers["eve"].Signal(syscall.SIGSTOP)

	s.publish(2, "")
	s.MustLull("refresh", "--wait", app) // with one helper stopped: it cannot have waited for that
	s.untilFolder(ann, 2)
	s.untilFolder(bob, 2)
	for _, a := range []*rig.Actor{carl, eve} {
		if has(data(a, "2")) {
			t.Errorf("revision 2 of the data of %s is there, want none without a helper that runs", a.Name)
		}
	}
	s.Until("dora's helper says what is wrong", limit, func() (bool, string) {
		log := helpers["dora"].Log()
		return strings.Contains(log, "phase=finish") && strings.Contains(log, "the data of revision 1 cannot be brought over") &&
			strings.Contains(log, "no space left"), log
	})
	s.Until("the agent says it, too", limit, func() (bool, string) {
		log := s.Agent().Log()
		return strings.Contains(log, "phase=finish") && strings.Contains(log, fmt.Sprintf("uid=%d", dora.UID)), log
	})
	helpers["eve"].Signal(syscall.SIGCONT)
	s.untilFolder(eve, 2)
	for _, a := range []*rig.Actor{ann, bob, carl, eve} {
		s.loads(a, "of "+a.Name)
		if left, _ := filepath.Glob(data(a, ".*partial*")); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}

	// The one without room: a clear error, nothing changed, and the way back.
	r := dora.Run("lull-run", app, "load")
	if r.Code != 73 || !strings.Contains(r.Stderr, "lull: cannot run "+app+": the file system of the home directory is full: the data of revision 1 cannot be brought over") || !strings.Contains(r.Stderr, "hint: it is untouched") {
		t.Errorf("dora is not told what is wrong: %v", r)
	}
	if left, _ := filepath.Glob(data(dora, ".*partial*")); has(data(dora, "2")) || len(left) > 0 {
		t.Errorf("a copy that does not fit takes dora's last room: %q", left)
	}
	s.MustLull("revert", app)
	s.loads(dora, "of dora")
	s.save(ann, "after the revert")
	if b, _ := os.ReadFile(data(ann, "2/file")); string(b) != "of ann\n" {
		t.Errorf("a revert has touched the data of revision 2: got %q, want content %q", b, "of ann\n")
	}
}

// small gives a user a home that is soon full.
func small(t *testing.T, a *rig.Actor, bytes int) {
	t.Helper()
	err := syscall.Mount("lull-test", a.Home, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=0700,uid=%d,gid=%d", bytes, a.UID, a.GID))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the user goes
		if err := syscall.Unmount(a.Home, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// lock holds the lock of a user's data, as a copy under way does.
func lock(t *testing.T, a *rig.Actor) (unlock func()) {
	t.Helper()
	fd, err := unix.Open(data(a, ".lock"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	a.Own(data(a, ".lock"))
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	return func() { unix.Close(fd) }
}

// testKilledHelper: a helper dies in the middle of each phase.
func testKilledHelper(t *testing.T) {
	const slow = "{name: one, scope: user, command: [bin/svc, one, slow], stop-timeout: 60s}"
	t.Run("precopy", func(t *testing.T) {
		s := newStage(t, "")
		ann := s.NewUser("ann", true)
		s.save(ann, "before")
		unlock := lock(t, ann)
		p := ann.StartHelper()
		s.publish(2, "")
		s.untilOrdered(p, "precopy")
		p.Crash()
		s.MustLull("refresh", "--wait", app)
		unlock()
		s.loads(ann, "before")
	})
	t.Run("finish", func(t *testing.T) {
		s := newStage(t, "")
		ann := s.NewUser("ann", true)
		s.save(ann, "before")
		unlock := lock(t, ann)
		p := ann.StartHelper()
		s.publish(2, "")
		s.MustLull("refresh", "--wait", app)
		s.untilOrdered(p, "finish")
		// A launch meanwhile reports that it waits.
		term := ann.OnTerminal("run", app, "load")
		s.Until("a launch says that it waits", limit, func() (bool, string) {
			return strings.Contains(term.Log(), "waits: its data is being brought over"), term.Log()
		})
		p.Crash()
		unlock()
		if code, err := term.Wait(t.Context(), limit); code != 0 || err != nil || !strings.Contains(term.Log(), "before") {
			t.Errorf("status %d, %v: %s; want code 0, no error and %q", code, err, term.Log(), "before")
		}
	})
	t.Run("enter", func(t *testing.T) {
		s := newStage(t, slow)
		ann := s.NewUser("ann", true)
		s.save(ann, "before")
		pipe(t, ann)
		p := ann.StartHelper()
		s.untilLog(ann, "1 one 1 up")
		s.publish(2, slow)
		s.untilLog(ann, "1 one asked")
		p.Crash() // systemd goes on stopping, and the refresh waits for the process
		release(t, ann)
		s.MustLull("refresh", "--wait", app)
		s.loads(ann, "before")
		ann.StartHelper()
		s.untilLog(ann, "2 one 2 up")
	})
	t.Run("undo", func(t *testing.T) {
		s := newStage(t, slow)
		ann := s.NewUser("ann", true)
		s.save(ann, "before")
		pipe(t, ann)
		p := ann.StartHelper()
		s.untilLog(ann, "1 one 1 up")
		s.publish(3, slow) // is not healthy
		s.untilLog(ann, "1 one asked")
		p.Signal(syscall.SIGSTOP) // it does not live until the undo
		release(t, ann)
		s.Until("it was undone", limit, func() (bool, string) {
			o, ok := s.API.Refresh(app, "3")
			return ok && o.Str("State") == "undone", o.Str("State") + " " + o.Str("ErrorText")
		})
		p.Crash()
		ann.StartHelper()
		s.UntilFile("the old service is there again", limit, data(ann, "common/log"), func(log string) (bool, string) {
			return strings.Count(log, "1 one 1 up") == 2 && !strings.Contains(log, "3 one"), log
		})
		s.loads(ann, "before")
		pipe(t, ann)
	})
}

// pipe makes the pipe on which a slow service waits; release lets it end.
func pipe(t *testing.T, a *rig.Actor) {
	t.Helper()
	path := data(a, "common/pipe")
	os.Remove(path)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	a.Own(path)
}

func release(t *testing.T, a *rig.Actor) {
	t.Helper()
	if err := os.WriteFile(data(a, "common/pipe"), nil, 0); err != nil {
		t.Fatal(err)
	}
	// Any that comes later need not wait.
	if err := os.Remove(data(a, "common/pipe")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data(a, "common/pipe"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.Own(data(a, "common/pipe"))
}

// testStaleData: the agent dies in the critical section, after the helper has
// entered; the refresh is undone, the user goes on with the old revision, and the
// same refresh is retried. The new revision has the user's latest data.
func testStaleData(t *testing.T) {
	const slow = "{name: one, scope: user, command: [bin/svc, one, slow], stop-timeout: 60s}"
	s := newStage(t, slow)
	ann, bob := s.NewUser("ann", true), s.NewUser("bob", true)
	s.save(ann, "first")
	s.save(bob, "first")
	pipe(t, ann)
	pipe(t, bob)
	helper := ann.StartHelper()
	bobs := bob.StartHelper()
	s.untilLog(ann, "1 one 1 up")
	s.untilLog(bob, "1 one 1 up")
	s.publish(2, slow)
	s.untilLog(ann, "1 one asked")
	s.untilLog(bob, "1 one asked")
	s.MustLull("hold", app) // the next attempt waits for us
	s.Agent().Crash()
	release(t, ann)
	release(t, bob)
	s.untilLog(ann, "1 one down")
	s.StartAgent()
	s.Until("the refresh is undone and waits", limit, func() (bool, string) {
		o, ok := s.API.Refresh(app, "2")
		return ok && o.Str("State") == "waiting", o.Str("State")
	})
	if has(data(ann, "2")) {
		t.Error("there is data of a revision that never came")
	}
	s.UntilFile("the service is there again", limit, data(ann, "common/log"), func(log string) (bool, string) {
		return strings.Count(log, "1 one 1 up") == 2, log + helper.Log()
	})
	s.save(ann, "second")
	s.save(bob, "second")
	bobs.Stop() // the user logs out: the service is found and ended all the same
	s.MustLull("unhold", app)
	s.MustLull("refresh", "--wait", app)
	s.untilLog(ann, "2 one 2 up")
	o, _ := s.API.Package(app)
	if rev := o.Num("Revision"); rev != 2 {
		t.Errorf("it is revision %d, want 2", rev)
	}
	s.loads(ann, "second")
	s.loads(bob, "second")
}
