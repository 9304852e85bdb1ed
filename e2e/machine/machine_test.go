package machine_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/disk"
)

// parts are the life of a machine, in this order.
var parts = []struct {
	name  string
	whole bool // it needs a whole machine, and no container will do
	play  func(*scene)
}{
	{"logind is restarted while a refresh waits", false, logindRestartsWaiting},
	{"logind is restarted in a critical section", false, logindRestartsCritical},
	{"a shutdown is refused by name", false, refused},
	{"logind is away", false, logindAway},
	{"the clock jumps", true, clockJumps},
	{"the machine is suspended", true, suspended},
	{"the clock jumps in a critical section", true, clockInSection},
	{"a system update is staged", false, systemStaged},
	{"shutdown waits for a critical section alone", false, shutdownWaits},
	{"boot refreshes what is prepared", false, bootRefreshes},
	{"boot commits a system that has started well", false, systemCommitted},
	{"boot finishes or undoes what power cut", true, bootAfterCut},
	{"the kernel bounds the agent", true, bounded},
	{"the last moment before a shutdown", false, lastMoment},
	{"boot with a broken agent", false, brokenAgent},
	{"shutdown past logind", false, shutdownPastLogind},
	{"a user refreshes what he runs", false, userRefreshes},
	{"shutdown does not wait for what waits", false, shutdownGoesOn},
	{"the user comes back", false, userComesBack},
	{"lull is upgraded while refreshes are under way, and downgraded", false, upgraded},
	{"lull is removed, comes back, and is purged", false, removed},
}

// play plays some parts.
func (s *scene) play(chosen func(whole bool) bool) {
	for _, part := range parts {
		if chosen(part.whole) && !s.T.Run(part.name, func(t *testing.T) { part.play(s.at(t)) }) {
			s.FailNow() // what comes next builds on it
		}
	}
}

// TestMachine plays the parts that need a whole machine: on v2, and with LULL_MACHINE=all
// all parts, and on v1 beside it. In every run the tests of rig boot a machine on v1, and
// powercut works on two.
func TestMachine(t *testing.T) {
	require.QEMU(t)
	require.NotShort(t)
	t.Parallel()
	all := os.Getenv("LULL_MACHINE") == "all"
	debs := map[string]string{firstDeb: rig.Deb(t, "")}
	if all {
		debs = packages(t)
	}
	for _, v1 := range []bool{false, true} {
		if v1 && !all {
			continue
		}
		t.Run(map[bool]string{false: "v2", true: "v1"}[v1], func(t *testing.T) {
			t.Parallel()
			s := start(t, pace{hung: "150s", boot: "2m"}, debs, func(files map[string]string) machine {
				return rig.StartVM(t, rig.VMOptions{CgroupV1: v1, Bare: true, Files: files})
			})
			s.v1 = v1
			s.play(func(whole bool) bool { return whole || all })
		})
	}
}

// TestContainer plays all other parts in a container with real systemd and logind, which
// keeps its changes from boot to boot.
func TestContainer(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	t.Parallel()
	s := start(t, pace{hung: "30s", boot: "15s"}, packages(t), func(files map[string]string) machine { return newBox(t, files) })
	s.play(func(whole bool) bool { return !whole })
}

const (
	slow, heavy  = "org.lull.slow", "org.lull.heavy"
	plain, well  = "org.lull.plain", "org.lull.well"
	sick, hung   = "org.lull.sick", "org.lull.hung"
	poweringDown = "systemd-logind.service: System is powering down."
)

// inhibitors follows logind's list of held locks.
func (s *scene) inhibitors() *rig.Command {
	p := s.follow("gdbus", "monitor", "--system", "--dest", "org.freedesktop.login1", "--object-path", "/org/freedesktop/login1")
	s.until("logind is listened to", p, "is owned by")
	return p
}

func logindRestartsWaiting(s *scene) {
	s.open(plain)
	s.prepare(plain)
	s.sh(`timeout %.0f sh -c 'until systemd-inhibit --list | grep -q "%s 2.0 waits for"; do sleep 0.2; done'`, limit.Seconds(), plain)
	if l := s.locks(); !strings.Contains(l, "lulld shutdown ") || !strings.Contains(l, plain+" 2.0 waits for") || !strings.Contains(l, "delay") {
		s.Fatalf("a refresh that waits holds these locks: got %q, want %q, %q and %q", l, "lulld shutdown ", plain+" 2.0 waits for", "delay")
	}
	// logind finds the lock that it gave before, gives another, and sees that the old one is
	// closed. No program can listen to a new logind before the agent asks it for a lock.
	const record = "grep -l -D skip WHO=lull /run/systemd/inhibit/*"
	before := s.sh(record)
	s.sh("systemctl restart systemd-logind")
	s.sh(`timeout %.0f sh -c 'until now=$(%s) && test "$now" != %s && test "$(echo "$now" | wc -l)" = 1; do sleep 0.2; done'`, limit.Seconds(), record, before)
	if l := s.locks(); strings.Count(l, "\n") != 0 || !strings.Contains(l, plain+" 2.0 waits for") {
		s.Errorf("after logind's restart there are these locks: got %q, want one with %q", l, plain+" 2.0 waits for")
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
	s.gate(slow, atHealth)
	r := s.refresh(slow)
	s.until("it is in its critical section", r, checking)
	s.sh("systemctl restart systemd-logind")
	if l := s.locks(); !strings.Contains(l, "lulld shutdown:sleep") || !strings.Contains(l, "Refreshing "+slow) {
		s.Errorf("after logind's restart there are these locks: got %q, want %q and %q", l, "lulld shutdown:sleep", "Refreshing "+slow)
	}
	s.release(slow, atHealth)
	s.until("it is refreshed", r, s.refreshed(slow))
	s.sh(`timeout %.0f sh -c 'while systemd-inhibit --list | grep -q lull; do sleep 0.2; done'`, limit.Seconds())
	s.whole(slow, false)
	if l := s.locks(); l != "" {
		s.Errorf("nothing is done, and there are these locks: %q", l)
	}
}

// refused: logind refuses a shutdown to the user at the screen. If it supports block-weak,
// only a delay holds root up, and systemctl names no blocker of that kind.
func refused(s *scene) {
	const mayPowerOff = "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager CanPowerOff"
	atSeat := func(script string) rig.Result {
		return s.machine.Run(rig.LoginArgv(s.seat(), "bash", "-c", script)...)
	}
	if r := atSeat(mayPowerOff); strings.TrimSpace(r.Stdout) != `s "yes"` {
		s.Fatalf("the user at the screen may not switch the machine off: %v", r)
	}
	changes := s.inhibitors()
	s.gate(heavy, atStop)
	r := s.refresh(heavy)
	s.until("it is in its critical section", r, stopping)
	l := s.locks()
	s.Logf("systemd-inhibit --list: %q", l)
	if strings.Count(l, "Refreshing "+heavy) != 2 || !strings.Contains(l, "block") || !strings.Contains(l, "delay") {
		s.Errorf("a long critical section holds these locks: %q", l)
	}
	// Recent versions of systemd, as that of sid, name the lock instead of the question to polkit.
	if r := atSeat(mayPowerOff); strings.TrimSpace(r.Stdout) != `s "challenge"` && strings.TrimSpace(r.Stdout) != `s "inhibited"` {
		s.Errorf("in a critical section logind answers whether the user at the screen may switch the machine off with %v, want \"challenge\" or \"inhibited\"", r)
	}
	if r := atSeat("systemctl poweroff"); r.Code == 0 {
		s.Errorf("a shutdown is not refused: %v", r)
	}
	if !strings.Contains(l, "block-weak") {
		for _, who := range [][]string{{"systemctl"}, rig.LoginArgv(nil, "systemctl")} {
			p := s.machine.Run(append(who, "--check-inhibitors=yes", "poweroff")...)
			s.Logf("systemctl poweroff: %v", p)
			if p.Code == 0 || !strings.Contains(p.Text(), "lull") || !strings.Contains(p.Text(), "Refreshing "+heavy) {
				s.Errorf("a shutdown is not refused in the name of lull: %v", p)
			}
		}
	}
	s.release(heavy, atStop)
	s.until("it is refreshed", r, s.refreshed(heavy))
	// The lock that logind reports last, and the property for a weak one, differ.
	s.untilSaid("the locks are released", changes, func(said string) bool {
		return strings.Contains(said, "'DelayInhibited': <''>") && s.locks() == ""
	})
	s.whole(heavy, false)
}

func logindAway(s *scene) {
	s.open(plain)
	s.sh("systemctl mask --now --runtime systemd-logind")
	r := s.refresh(slow)
	s.until("it is refreshed", r, s.refreshed(slow))
	s.whole(slow, false)
	// A waiting refresh gets its lock when logind comes back.
	s.prepare(plain)
	s.sh("systemctl unmask --runtime systemd-logind; systemctl start systemd-logind")
	s.sh(`timeout %.0f sh -c 'until systemd-inhibit --list | grep -q "%s [0-9.]* waits for"; do sleep 0.2; done'`, limit.Seconds(), plain)
	end := s.follow("lull", "refresh", "--wait", plain)
	s.shut(plain)
	s.until("it is refreshed", end, s.refreshed(plain))
}

const (
	timeout = "inhibitor timeout is reached"
	told    = "lulld.service: a shutdown is announced or given up"
	leaving = "lulld.service: leaving a refresh to the next boot"
)

// shutdownWaits: one refresh is in its critical section, others wait for applications
// that run. Logind waits for the one, which is the only one that still has a lock.
func shutdownWaits(s *scene) {
	for _, name := range []string{well, sick, hung} {
		s.open(name)
		s.prepare(name)
	}
	s.sh("echo sick > /etc/healthy/%s; echo hung > /etc/healthy/%s", sick, hung)
	s.dropIn("lull-boot", "ExecStart=", "ExecStart=/usr/bin/lull refresh --prepared --time-limit="+s.pace.boot, "TimeoutStartSec=5min")
	s.gate(heavy, atStop)
	s.refresh(heavy)
	// Asked of systemd: what the command prints is another part's matter.
	s.sh(`timeout %.0f sh -c 'until test "$(systemctl is-active lull-%s-sync.service)" = deactivating; do sleep 0.2; done'`, limit.Seconds(), heavy)
	down := s.inhibitors()
	s.Start("systemctl", "poweroff")
	s.until("the shutdown is announced", down, "PrepareForShutdown (true,)")
	boot := s.thisBoot()
	s.Start("sh", "-c", "cd /run/gate && : > "+heavy+".stop; rm "+heavy+".stop")
	s.off()
	s.Boot()
	s.WaitBoot()
	list := s.journal(boot)
	at := s.inOrder(list, told, leaving, leaving, leaving, s.healthy(heavy), poweringDown)
	s.inOrder(list, told, "lulld.service: refresh of "+heavy+": done")
	s.never(slices.DeleteFunc(slices.Clone(list), func(e entry) bool { return e.At < at[0] }), timeout) // one has stopped a sleep before
	s.Logf("the shutdown waited %v for the critical section, and went on %v after it", at[4]-at[0], at[5]-at[4])
	s.whole(heavy, false)
}

// dropIn changes a unit from the next boot on.
func (s *scene) dropIn(unit string, lines ...string) {
	s.Helper()
	s.sh("mkdir -p /etc/systemd/system/%[1]s.service.d; printf '%%s\n' '[Service]' '%[2]s' > /etc/systemd/system/%[1]s.service.d/test.conf", unit, strings.Join(lines, "' '"))
}

// off waits until the machine has gone off.
func (s *scene) off() {
	s.Helper()
	must(s.T, s.WaitExit(limit))
}

func bootRefreshes(s *scene) {
	list := s.journal(s.thisBoot())
	s.inOrder(list, "lull-boot.service: Starting", "lull-boot.service: "+s.refreshed(well), "lull-boot.service: Finished", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: refresh of "+well+": done", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: refresh of "+sick+": undone", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lull-boot.service: lull: cannot refresh "+sick, "lull-boot.service: Finished")
	at := s.inOrder(list, "lulld.service: serving", "lull-boot.service: Finished", "user@1000.service: Starting")
	s.inOrder(list, "lull-boot.service: Finished", "Reached target multi-user.target")
	s.Logf("lull-boot.service finished %v after the agent served, with one refresh that hangs, so that the limit of %s was reached", at[1]-at[0], s.pace.boot)
	s.inOrder(list, "lull-boot.service: "+hung+": the refresh goes on in the background", "lull-boot.service: Finished")
	s.whole(well, false)
	s.whole(sick, true)
	end := s.follow("journalctl", "-b", "-f", "-n", "all", "-o", "cat", "-u", "lulld")
	s.until("the refresh that hangs is undone", end, "refresh of "+hung+": undone")
	s.whole(hung, true)
	// In what comes the boot has to wait until a refresh has ended, however slow the host is.
	s.sh("rm -r /etc/systemd/system/lull-boot.service.d; systemctl daemon-reload")
}

func bootAfterCut(s *scene) {
	// One is cut in its health check, after its commit, the other before it.
	s.gate(well, atHealth)
	after := s.refresh(well)
	s.until("it is in its health check", after, checking)
	s.gate(slow, atStop)
	before := s.refresh(slow)
	s.until("it is in its critical section", before, stopping)
	s.vm.Cut(disk.LoseAll, nil)
	s.Boot()
	s.WaitBoot()
	list := s.journal(s.thisBoot())
	s.inOrder(list, "lulld.service: serving", "lulld.service: refresh of "+well+": done", "systemd-user-sessions.service: Finished")
	s.inOrder(list, "lulld.service: serving", "lulld.service: refresh of "+slow+": done", "systemd-user-sessions.service: Finished")
	s.whole(well, false)
	s.whole(slow, false)
}

// lastMoment: an application is closed just as the machine begins to go down, and the
// agent gets both events at once.
func lastMoment(s *scene) {
	s.open(well)
	s.prepare(well)
	s.dropIn("lulld", "ExecStartPre=/bin/sh -c "+`"test -f /var/lib/lull || { mv /var/lib/lull /var/lib/away; touch /var/lib/lull; }"`)
	down := s.inhibitors()
	s.sh("systemctl kill --kill-whom=main -s STOP lulld; pkill -x notes")
	s.Start("systemctl", "poweroff")
	s.until("the shutdown is announced", down, "PrepareForShutdown (true,)")
	boot := s.thisBoot()
	s.Start("systemctl", "kill", "--kill-whom=main", "-s", "CONT", "lulld")
	s.off()
	s.Boot()
	s.machine.RunWithin(limit, "systemctl", "is-system-running", "--wait")
	list := s.journal(boot)
	at := s.inOrder(list, s.healthy(well), poweringDown)
	s.never(list, timeout)
	s.Logf("the shutdown went on %v after the health check", at[1]-at[0])
}

// brokenAgent: the agent cannot start, because its directory is broken. That does not keep
// the machine from booting.
func brokenAgent(s *scene) {
	if s.machine.Run("systemctl", "is-active", "lulld").Code == 0 {
		s.Fatal("the agent is not broken")
	}
	list := s.journal(s.thisBoot())
	s.inOrder(list, "lulld.service: Failed with result", "systemd-user-sessions.service: Finished", "Reached target multi-user.target")
	s.never(list, "lull-boot.service: Starting")
	s.sh("rm /etc/systemd/system/lulld.service.d/test.conf; systemctl daemon-reload; systemctl stop lulld; " +
		"rm /var/lib/lull; mv /var/lib/away /var/lib/lull; systemctl reset-failed; systemctl start lulld")
	for _, a := range apps {
		s.whole(a.name, a.name == sick || a.name == hung)
	}
}

// shutdownPastLogind: logind is not asked, and a critical section is under way while
// systemd refuses to start services. It is not the new revision's fault.
func shutdownPastLogind(s *scene) {
	// This ends before the agent does, and only when the agent has come to start the service.
	s.sh("systemd-run --quiet --property=After=lulld.service --property=ExecStop='/bin/bash -c \": > /run/gate/%s.stop; "+
		"grep -q -m1 leaving.the.rest < <(exec journalctl -b -f -n all -u lulld)\"' sleep infinity", heavy)
	s.gate(heavy, atStop)
	r := s.refresh(heavy)
	s.until("it is in its critical section", r, stopping)
	boot := s.thisBoot()
	s.Start("systemctl", "start", "--no-block", "--job-mode=replace-irreversibly", "poweroff.target")
	s.off()
	s.Boot()
	s.WaitBoot()
	list := s.journal(boot)
	s.inOrder(list, "lulld.service: leaving the rest of a refresh to the next boot", "lulld.service: Stopped")
	s.never(list, told)
	s.inOrder(s.journal(s.thisBoot()), "lulld.service: taking up a refresh again", s.healthy(heavy), "lulld.service: refresh of "+heavy+": done", "systemd-user-sessions.service: Finished")
	s.whole(heavy, false)
}

// shutdownGoesOn: nothing but a refresh that waits.
func shutdownGoesOn(s *scene) {
	s.open(plain)
	s.prepare(plain)
	boot := s.thisBoot()
	s.Start("systemctl", "poweroff")
	s.off()
	s.Boot() // the journal can be read long before it has booted
	list := s.journal(boot)
	at := s.inOrder(list, told, leaving, poweringDown)
	s.never(list, timeout)
	s.Logf("the shutdown went on %v after the agent was told, and %v after it had let go", at[2]-at[0], at[2]-at[1])
}
