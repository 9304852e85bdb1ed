package machine_test

import (
	"fmt"
	"strings"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// seat is the environment of a log-in at the machine's seat, which in a container has no
// virtual terminals.
func (s *scene) seat() []string {
	env := []string{"XDG_SESSION_TYPE=x11", "XDG_SESSION_CLASS=user", "XDG_SEAT=seat0"}
	if s.vm != nil {
		env = append(env, "XDG_VTNR=1")
	}
	return env
}

// desktop logs the user in, at the seat, with a display and a notification server.
func (s *scene) desktop() {
	s.Helper()
	p := s.follow(rig.LoginArgv(s.seat(), "test-desktop")...)
	r := s.until("the desktop is there", p, "the desktop is there")
	for _, want := range []string{"Type=x11", "Seat=seat0", "Active=yes", "Class=user"} {
		if !strings.Contains(r.Stdout, want) {
			s.Fatalf("this is no session at the machine's seat: %v\n%s", r, s.sh("loginctl; loginctl seat-status seat0; journalctl -b -u systemd-logind -n 20"))
		}
	}
}

// byUser is a command that a program of the user's desktop runs.
func byUser(script string) []string {
	return []string{"setpriv", "--reuid=" + rig.Tester, "--regid=" + rig.Tester, "--init-groups", "env",
		"XDG_RUNTIME_DIR=/run/user/1000", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus", "HOME=/home/" + rig.Tester,
		"systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--", "bash", "-c", script}
}

// asUser runs a script on the user's desktop, which must succeed.
func (s *scene) asUser(format string, args ...any) string {
	s.Helper()
	r := s.machine.Run(byUser(fmt.Sprintf(format, args...))...)
	if r.Code != 0 {
		s.Fatalf("%v\n%s", r, s.machine.Run("journalctl", "-b", "-u", "lulld", "-u", "polkit", "--no-pager", "-n", "40").Stdout)
	}
	return strings.TrimSpace(r.Stdout)
}

// userOpens starts notes on the user's desktop, by its exported command.
func (s *scene) userOpens() *rig.Command {
	s.Helper()
	p := s.follow(byUser("exec /var/lib/lull/exports/bin/" + sample.Name)...)
	s.until("notes runs", p, "is running as process")
	return p
}

// userCloses ends it.
func (s *scene) userCloses(p *rig.Command) {
	s.Helper()
	s.asUser("pkill -x notes")
	s.until("notes has ended", p, "ends after")
}

// userHasNotes checks that the user's data has the notes of these versions.
func (s *scene) userHasNotes(versions ...string) {
	s.Helper()
	said := s.asUser("lull run %s --show", sample.Name)
	for _, v := range versions {
		if !strings.Contains(said, "notes written by version "+v) {
			s.Errorf("there are no notes of version %s: %s", v, said)
		}
	}
}

// userRefreshes is the main job, done by a user at the screen, who installs an
// application and runs it, is notified once that a refresh waits, closes the
// application, and has the next version with the data. Then it is open again
// when the machine shuts down.
func userRefreshes(s *scene) {
	s.desktop()
	s.asUser("lull install %s", sample.Name)
	if r := s.machine.Run(byUser("lull repo add other /srv/repo")...); r.Code != 77 || !strings.Contains(r.Stderr, "cannot") {
		s.Errorf("a user may change where applications come from: got %v, want exit status 77 and %q in the error output", r, "cannot")
	}
	app := s.userOpens()
	notices := s.follow(byUser("dbus-monitor --session \"interface='org.freedesktop.Notifications'\"")...)
	s.until("notices are listened to", notices, "NameAcquired")
	s.publish(sample.Name)
	if said := s.asUser("lull refresh --no-wait %s", sample.Name); !strings.Contains(said, sample.Name+" waits for") {
		s.Fatalf("it does not wait: %s", said)
	}
	s.until("the user is told", notices, "member=Notify", "Notes")
	if said := s.asUser("lull pending"); !strings.Contains(said, sample.Name) || !strings.Contains(said, rig.Tester) {
		s.Errorf("the user does not see what waits: %s", said)
	}
	// dunst replies before it draws, and sends no signal when it has drawn. After 10 s, which
	// pass soon on a slow machine, the notice is in its history.
	const shown = "$(( $(dunstctl count displayed) + $(dunstctl count history) ))"
	if n := s.asUser("timeout 60 sh -c 'until [ %[1]s = 1 ]; do sleep 0.1; done'; echo %[1]s", shown); n != "1" {
		s.Errorf("%s notices were shown, want 1:\n%v\n%s", n, notices.Result(), s.asUser("journalctl --user -b -n 60 --no-pager"))
	}
	end := s.follow("lull", "refresh", "--wait", sample.Name)
	s.userCloses(app)
	s.until("it is refreshed", end, s.refreshed(sample.Name))
	s.until("the notice is withdrawn", notices, "member=NotificationClosed")
	if r := notices.Result(); strings.Count(r.Stdout, "member=Notify\n") != 1 && strings.Count(r.Stdout, "member=Notify") > 2 {
		s.Errorf("the user is told too often: %v", r)
	}
	s.whole(sample.Name, false)
	s.userHasNotes("1.0")

	s.userOpens()
	s.prepare(sample.Name)
}

// userComesBack: what waited when the machine went down was refreshed at boot.
func userComesBack(s *scene) {
	s.WaitBoot()
	list := s.journal(s.thisBoot())
	s.inOrder(list, "lulld.service: serving", "lulld.service: refresh of "+sample.Name+": done", "systemd-user-sessions.service: Finished")
	s.whole(sample.Name, false)
	s.desktop()
	s.userHasNotes("1.0", "2.0")
	app := s.userOpens()
	s.userCloses(app)
	s.userHasNotes("1.0", "2.0", "3.0")
	s.userReverts()
}

// userReverts goes back to the version before, with its data, which then stays; lets
// what is kept be explained and collected; and takes the step back.
func (s *scene) userReverts() {
	s.Helper()
	now := s.installed(sample.Name)
	s.asUser("lull revert %s", sample.Name)
	said := s.asUser("lull run %s --show", sample.Name)
	if p := s.installed(sample.Name); p.Version != "2.0" || !strings.Contains(said, "written by version 2.0") || strings.Contains(said, "written by version 3.0") {
		s.Errorf("version %s was reverted to version %s, with these notes: %s", now.Version, p.Version, said)
	}
	s.asUser("lull refresh %s", sample.Name)
	if p := s.installed(sample.Name); p.Version != "2.0" || p.Refresh != nil {
		s.Errorf("what was reverted is offered again: %+v", p)
	}
	pkg := s.asUser("readlink -f /var/lib/lull/current/%s | xargs basename", sample.Name)
	if why := s.asUser("lull why %s", pkg); !strings.Contains(why, sample.Name) {
		s.Errorf("nobody knows why it is kept: got %s, want %q in the why", why, sample.Name)
	}
	if r := s.machine.Run(byUser("lull gc")...); r.Code != 77 {
		s.Errorf("a user may collect without a password: %v", r)
	}
	s.sh("lull gc")
	s.asUser("busctl --system introspect org.lull.Agent1 %s", bus.PackagePath(sample.Name))
	s.asUser("lull revert --revision %d %s", now.Revision, sample.Name)
	s.whole(sample.Name, false)
	s.userHasNotes("1.0", "2.0", "3.0")
}
