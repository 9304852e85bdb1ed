package machine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/need"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/disk"
)

// TestMachine goes through the life of a machine, once with each hierarchy.
func TestMachine(t *testing.T) {
	need.QEMU(t)
	need.NotShort(t)
	for _, v1 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v2", true: "v1"}[v1], func(t *testing.T) {
			s := start(t, v1)
			for _, part := range []struct {
				name string
				run  func(*scene)
			}{
				{"logind is restarted while a refresh waits", logindRestartsWaiting},
				{"logind is restarted in a critical section", logindRestartsCritical},
				{"a shutdown is refused by name", refused},
				{"logind is away", logindAway},
				{"the clock jumps", clockJumps},
				{"shutdown waits for a critical section", shutdownWaits},
				{"shutdown does not wait for what waits", shutdownGoesOn},
				{"boot refreshes what is prepared", bootRefreshes},
				{"boot finishes or undoes what power cut", bootAfterCut},
				{"the last moment before a shutdown", lastMoment},
				{"boot with a broken agent", brokenAgent},
			} {
				if !t.Run(part.name, func(t *testing.T) { part.run(s.at(t)) }) {
					t.FailNow() // what comes next builds on it
				}
			}
		})
	}
}

const (
	slow, heavy  = "org.lull.slow", "org.lull.heavy"
	plain, well  = "org.lull.plain", "org.lull.well"
	sick, hung   = "org.lull.sick", "org.lull.hung"
	poweringDown = "systemd-logind.service: System is powering down."
)

// inhibitors follows what logind says about the locks that are held.
func (s *scene) inhibitors() *rig.VMProc {
	p := s.follow("gdbus", "monitor", "--system", "--dest", "org.freedesktop.login1", "--object-path", "/org/freedesktop/login1")
	s.until("logind is listened to", p, "is owned by")
	return p
}

func logindRestartsWaiting(s *scene) {
	s.open(plain)
	s.prepare(plain)
	if l := s.locks(); !strings.Contains(l, "lulld shutdown ") || !strings.Contains(l, plain+" 2.0 waits for") || !strings.Contains(l, "delay") {
		s.Fatalf("a refresh that waits holds these locks: %q", l)
	}
	changes := s.inhibitors()
	s.sh("systemctl restart systemd-logind")
	s.until("logind is there again and has a lock", changes, "The name org.freedesktop.login1 is owned by", "'DelayInhibited': <'")
	if l := s.locks(); strings.Count(l, "\n") != 0 || !strings.Contains(l, plain+" 2.0 waits for") {
		s.Errorf("after logind's restart there are these locks: %q", l)
	}
	end := s.follow("lull", "refresh", "--wait", plain)
	s.shut(plain)
	s.until("it is refreshed", end, s.refreshed(plain))
	s.whole(plain, false)
	if l := s.locks(); l != "" {
		s.Errorf("nothing is done, and there are these locks: %q", l)
	}
}

func logindRestartsCritical(s *scene) {
	changes := s.inhibitors()
	r := s.refresh(slow)
	s.until("it is in its critical section", r, stopping)
	s.sh("systemctl restart systemd-logind")
	if l := s.locks(); !strings.Contains(l, "lulld shutdown:sleep") || !strings.Contains(l, "Refreshing "+slow) {
		s.Errorf("after logind's restart there are these locks: %q", l)
	}
	s.until("it is refreshed", r, s.refreshed(slow))
	s.until("the lock is released", changes, "'DelayInhibited': <''>")
	s.whole(slow, false)
	if l := s.locks(); l != "" {
		s.Errorf("nothing is done, and there are these locks: %q", l)
	}
}

func refused(s *scene) {
	changes := s.inhibitors()
	r := s.refresh(heavy)
	s.until("it is in its critical section", r, stopping)
	l := s.locks()
	s.Logf("systemd-inhibit --list: %q", l)
	if strings.Count(l, "Refreshing "+heavy) != 2 || !strings.Contains(l, "block") || !strings.Contains(l, "delay") {
		s.Errorf("a long critical section holds these locks: %q", l)
	}
	for _, who := range [][]string{{"systemctl"}, rig.LoginArgv(nil, "systemctl")} {
		p := s.VM.Run(append(who, "--check-inhibitors=yes", "poweroff")...)
		s.Logf("systemctl poweroff: %v", p)
		if p.Code == 0 || !strings.Contains(p.Text(), "lull") || !strings.Contains(p.Text(), "Refreshing "+heavy) {
			s.Errorf("a shutdown is not refused in the name of lull: %v", p)
		}
	}
	s.until("it is refreshed", r, s.refreshed(heavy))
	s.until("the lock is released", changes, "'BlockInhibited': <''>")
	s.whole(heavy, false)
}

func logindAway(s *scene) {
	s.open(plain)
	s.sh("systemctl mask --now --runtime systemd-logind")
	r := s.refresh(slow)
	s.until("it is refreshed", r, s.refreshed(slow))
	s.whole(slow, false)
	// What waits when logind comes back gets its lock.
	s.prepare(plain)
	changes := s.follow("gdbus", "monitor", "--system", "--dest", "org.freedesktop.login1", "--object-path", "/org/freedesktop/login1")
	s.sh("systemctl unmask --runtime systemd-logind; systemctl start systemd-logind")
	s.until("there is a lock again", changes, "'DelayInhibited': <'shutdown'>")
	end := s.follow("lull", "refresh", "--wait", plain)
	s.shut(plain)
	s.until("it is refreshed", end, s.refreshed(plain))
}

// boot boots the machine again after it has gone off, to its end.
func (s *scene) boot() {
	s.Helper()
	if err := s.WaitExit(limit); err != nil {
		s.Fatal(err)
	}
	s.Boot()
	s.WaitBoot()
}

const (
	timeout = "inhibitor timeout is reached"
	told    = "lulld.service: a shutdown is announced or given up"
)

func shutdownWaits(s *scene) {
	r := s.refresh(heavy)
	s.until("it is in its critical section", r, stopping)
	s.Start("systemctl", "poweroff")
	s.boot()
	list := s.journal(-1)
	at := s.inOrder(list, told, "lulld.service: a hook has run instance="+heavy, poweringDown)
	s.inOrder(list, told, "lulld.service: refresh of "+heavy+": done")
	s.never(list, timeout)
	s.Logf("the shutdown waited %v for the critical section, and went on %v after it", at[1]-at[0], at[2]-at[1])
	s.whole(heavy, false)
}

func shutdownGoesOn(s *scene) {
	s.open(plain)
	s.prepare(plain)
	for _, name := range []string{well, sick, hung} { // what the next boot has to do
		s.open(name)
		s.prepare(name)
	}
	s.sh("echo sick > /etc/healthy/%s; echo hung > /etc/healthy/%s", sick, hung)
	s.sh("mkdir -p /etc/systemd/system/lull-boot.service.d; printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/lull refresh --prepared --time-limit=10s\\n' > /etc/systemd/system/lull-boot.service.d/limit.conf")
	s.Start("systemctl", "poweroff")
	s.boot()
	list := s.journal(-1)
	at := s.inOrder(list, told, "leaving a refresh to the next boot", poweringDown)
	s.never(list, timeout)
	s.Logf("the shutdown went on %v after it was announced to the agent", at[2]-at[0])
}

func bootRefreshes(s *scene) {
	list := s.journal(0)
	s.inOrder(list, "lull-boot.service: Starting", "lull-boot.service: "+s.refreshed(well), "lull-boot.service: Finished", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: refresh of "+well+": done", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: refresh of "+plain+": done", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: refresh of "+sick+": undone", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lull-boot.service: lull: cannot refresh "+sick, "lull-boot.service: Finished")
	at := s.inOrder(list, "lulld.service: serving", "lull-boot.service: Finished", "user@1000.service: Starting")
	s.inOrder(list, "lull-boot.service: Finished", "Reached target multi-user.target")
	s.Logf("lull-boot.service finished %v after the agent served, with one refresh that hangs for its limit of 10 s", at[1]-at[0])
	s.inOrder(list, "lull-boot.service: "+hung+": the refresh goes on in the background", "lull-boot.service: Finished")
	for _, name := range []string{plain, well} {
		s.whole(name, false)
	}
	s.whole(sick, true)
	end := s.follow("journalctl", "-b", "-f", "-n", "all", "-o", "cat", "-u", "lulld")
	s.until("the refresh that hangs is undone", end, "refresh of "+hung+": undone")
	s.whole(hung, true)
}

func bootAfterCut(s *scene) {
	// One is cut in its health check, after its commit, the other before it.
	s.sh("echo hung > /etc/healthy/%s", well)
	after := s.refresh(well)
	s.until("it is in its health check", after, checking)
	before := s.refresh(slow)
	s.until("it is in its critical section", before, stopping)
	s.sh("rm /etc/healthy/%[1]s; touch /etc/healthy/%[1]s; sync -f /etc", well)
	s.Cut(disk.LoseAll, nil)
	s.Boot()
	s.WaitBoot()
	list := s.journal(0)
	s.inOrder(list, "lulld.service: serving", "lulld.service: refresh of "+well+": done", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: serving", "lulld.service: refresh of "+slow+": done", "systemd-user-sessions.service: Finished")
	s.whole(well, false)
	s.whole(slow, false)
}

// lastMoment: an application is closed just as the machine begins to go down, and the
// agent hears of both at once.
func lastMoment(s *scene) {
	s.open(well)
	s.prepare(well)
	// The state folder is broken for the boot that comes.
	s.sh("mkdir -p /etc/systemd/system/lulld.service.d; printf '[Service]\\nExecStartPre=/bin/sh -c \"mv /var/lib/lull/state.db /var/lib/lull/away && mkdir /var/lib/lull/state.db; true\"\\n' > /etc/systemd/system/lulld.service.d/broken.conf")
	s.sh("systemctl kill --kill-whom=main -s STOP lulld")
	pids := s.sh("pgrep -x notes")
	s.sh("kill %s", strings.ReplaceAll(pids, "\n", " "))
	down := s.inhibitors()
	s.Start("systemctl", "poweroff")
	s.until("the shutdown is announced", down, "PrepareForShutdown (true,)")
	s.Start("systemctl", "kill", "--kill-whom=main", "-s", "CONT", "lulld")
	if err := s.WaitExit(limit); err != nil {
		s.Fatal(err)
	}
	s.Boot()
	if r := s.RunWithin(limit, "systemctl", "is-system-running", "--wait"); strings.TrimSpace(r.Stdout) != "degraded" {
		s.Errorf("the machine with a broken agent is %v", r)
	}
	list := s.journal(-1)
	at := s.inOrder(list, "lulld.service: refresh of "+well+": done", poweringDown)
	s.Logf("the shutdown went on %v after the refresh", at[1]-at[0])
	s.never(list, timeout)
}

func brokenAgent(s *scene) {
	if s.VM.Run("systemctl", "is-active", "lulld").Code == 0 {
		s.Fatal("the agent is not broken")
	}
	list := s.journal(0)
	s.inOrder(list, "lulld.service: Failed with result", "systemd-user-sessions.service: Finished", "Reached target multi-user.target")
	s.sh("rm /etc/systemd/system/lulld.service.d/broken.conf; systemctl daemon-reload; systemctl stop lulld; rmdir /var/lib/lull/state.db && mv /var/lib/lull/away /var/lib/lull/state.db; systemctl reset-failed; systemctl start lulld")
	for _, a := range apps {
		s.whole(a.name, a.name == sick || a.name == hung)
	}
	began := time.Now()
	s.Poweroff()
	s.Logf("it went off within %v", time.Since(began).Round(time.Second))
}
