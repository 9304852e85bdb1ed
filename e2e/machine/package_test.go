package machine_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// Where the machine has the packages, and the version of the second.
const (
	firstDeb    = "/opt/lull-first.deb"
	secondDeb   = "/opt/lull-second.deb"
	nextVersion = "99.0.0"
)

// packages makes lull's Debian package, and that of a later version, as files of a machine.
func packages(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{firstDeb: rig.Deb(t, ""), secondDeb: rig.Deb(t, nextVersion)}
}

// deadline is until when the refresh of notes may be put off, as JSON has it.
func (s *scene) deadline() string {
	s.Helper()
	_, after, ok := strings.Cut(s.sh("lull pending --json"), `"deadline": "`)
	if !ok {
		s.Fatal("nothing waits")
	}
	end, _, _ := strings.Cut(after, `"`)
	return end
}

// agentVersion is what the agent that serves calls itself.
func (s *scene) agentVersion() string {
	s.Helper()
	_, after, _ := strings.Cut(s.sh("lull version --json"), `"agent": "`)
	version, _, _ := strings.Cut(after, `"`)
	return version
}

// upgraded installs a later version, and then the first again, while a refresh waits
// for an application and, the first time, another one is in its critical section.
func upgraded(s *scene) {
	before := s.agentVersion()
	app := s.userOpens()
	s.prepare(sample.Name)
	deadline := s.deadline()
	pid := s.installed(sample.Name).Processes[0].PID

	s.gate(slow, atHealth)
	r := s.refresh(slow)
	s.until("it is in its critical section", r, checking)
	log := s.follow("journalctl", "-f", "-n", "0", "-o", "cat", "-u", "lulld")
	dpkg := s.Start("dpkg", "--install", secondDeb)
	s.until("the agent is asked to end", log, "Stopping")
	s.release(slow, atHealth)
	s.finished(dpkg)
	s.waits(nextVersion, deadline, pid)
	end := s.follow("lull", "refresh", "--wait", slow)
	if r, err := end.Wait(s.Context(), limit); err != nil || r.Code != 0 {
		s.Fatalf("got %v %v, want no error and exit status 0", r, err)
	}
	s.whole(slow, false)

	s.finished(s.Start("dpkg", "--install", firstDeb))
	s.waits(before, deadline, pid)
	end = s.follow("lull", "refresh", "--wait", sample.Name)
	s.userCloses(app)
	s.until("it is refreshed", end, s.refreshed(sample.Name))
	s.whole(sample.Name, false)
	s.userHasNotes("1.0", "2.0", "3.0")
}

// fine are warnings of dpkg with good reasons; the directory is systemd's, too.
var fine = regexp.MustCompile(`dpkg: warning: (downgrading|while removing lull, directory '/usr/lib/systemd/system/user@.service.d' not empty)`)

// finished waits for the end of a package's installation, which must succeed.
func (s *scene) finished(p *rig.Command) {
	s.Helper()
	r, err := p.Wait(s.Context(), limit)
	if err != nil || r.Code != 0 {
		s.Fatalf("%v %v\n%s", r, err, s.machine.Run("sh", "-c", "systemctl list-jobs; ps axf -o pid,stat,cmd; journalctl -b --no-pager -n 40").Stdout)
	}
	for _, complaint := range []string{"warning", "rror:", "ailed", "not found"} {
		if strings.Contains(fine.ReplaceAllString(r.Text(), ""), complaint) {
			s.Errorf("dpkg complains: %v", r)
			break
		}
	}
	s.Logf("%v took %v", r.Args, r.Took)
}

// waits checks that an agent of a version serves, the user's helper is there, and the
// refresh of notes waits as before.
func (s *scene) waits(version, deadline string, pid int) {
	s.Helper()
	if v := s.agentVersion(); v != version {
		s.Errorf("the agent is of version %s, want %s", v, version)
	}
	if d := s.deadline(); d != deadline {
		s.Errorf("the deadline was %s and is %s; want %v", deadline, d, deadline)
	}
	p := s.installed(sample.Name)
	if p.Refresh == nil || p.Refresh.State != "waiting" || len(p.Processes) != 1 || p.Processes[0].PID != pid {
		s.Errorf("%+v: it does not wait for process %d", p, pid)
	}
	s.asUser("systemctl --user is-active lull-userd")
}

// removed takes the package away while applications, services and helpers run,
// brings it back, and purges it.
func removed(s *scene) {
	s.userOpens()
	notes := s.installed(sample.Name)
	s.finished(s.Start("dpkg", "--remove", "lull"))

	if left := s.sh("ps -eo pid,cmd | grep -E '/[l]ull|[n]otes-sync' | grep -v -e 'bin/notes$' -e lull-guest -e systemd-run || true"); left != "" {
		s.Errorf("these processes are left:\n%s", left)
	}
	s.sh("kill -0 %d", notes.Processes[0].PID) // no process is killed
	if left := s.sh("busctl --no-legend --acquired list | grep lull || true; systemctl list-units --state=active,activating,deactivating,failed --plain --no-legend '*lull*' | grep -v -e '^lull-guest' -e '\\.device ' || true; " +
		"ls -d /run/lull /run/systemd/system/lulld.service 2>/dev/null || true"); left != "" {
		s.Errorf("these are left: %s", left)
	}
	if left := s.asUser("systemctl --user list-units --state=active,activating,deactivating,failed --plain --no-legend '*lull*' | grep -v -e '^app-lull-' -e '\\.device ' || true"); left != "" {
		s.Errorf("these units of the user are left: %s", left)
	}
	s.asUser("pkill -x notes")
	groups := s.follow("sh", "-c", "while find /sys/fs/cgroup -name '*lull*' | grep -v lull-guest; do sleep 0.2; done; echo all are gone")
	s.until("the cgroups are gone", groups, "all are gone")
	if s.v1 {
		if left := s.sh("cat /sys/fs/cgroup/freezer/release_agent"); left != "" {
			s.Errorf("a release agent is left: %s", left)
		}
	}

	// The former state is back with the package.
	s.finished(s.Start("dpkg", "--install", firstDeb))
	for _, name := range []string{sample.Name, slow, plain} {
		s.whole(name, false)
	}
	s.userHasNotes("1.0", "2.0", "3.0", "4.0")
	s.sh("rm -rf /etc/systemd/system/lull*.service.d /etc/systemd/system/boot-complete.target.requires") // from earlier scenes
	s.finished(s.Start("dpkg", "--purge", "lull"))
	if left := s.sh("ls -d /var/lib/lull /etc/lull /etc/profile.d/lull.sh /run/lull 2>/dev/null || true; find /etc/systemd /var/lib/systemd -name '*lull*' ! -path '*/linger/*' || true"); left != "" {
		s.Errorf("after the purge these are left:\n%s", left)
	}
	s.sh("test -d /home/%s/.local/share/lull/%s/4", rig.Tester, sample.Name)
	s.Poweroff()
}

// session are the files of a desktop in a machine: what a display manager and a
// desktop do, small. polkit lets the user install and revert applications, as an administrator
// would decide, but only at the screen.
func session(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	for path, text := range map[string]string{
		"/etc/polkit-1/rules.d/50-test.rules": `polkit.addRule(function(action, subject) {
	if ((action.id == "org.lull.install" || action.id == "org.lull.revert") && subject.user == "` + rig.Tester + `" && subject.active && subject.local) return polkit.Result.YES;
});
`,
		"/etc/dpkg/dpkg.cfg.d/test":             "force-unsafe-io\n", // the disk is emulated
		"/etc/systemd/user/test-desktop.target": "[Unit]\nDescription=A desktop\nBindsTo=graphical-session.target\n",
		"/usr/local/bin/test-desktop": `#!/bin/bash
set -eu
mkfifo "$XDG_RUNTIME_DIR/display"
Xvfb -displayfd 3 -screen 0 1024x640x24 -nolisten tcp -noreset -br 3> "$XDG_RUNTIME_DIR/display" &
read -r number < "$XDG_RUNTIME_DIR/display"
export DISPLAY=:$number
systemctl --user import-environment DISPLAY
dunst &
gdbus wait --session org.freedesktop.Notifications
systemctl --user start test-desktop.target
loginctl show-session "$XDG_SESSION_ID" --property=Type --property=Seat --property=Active --property=Class
echo the desktop is there
wait
`,
	} {
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o755))
	}
	return dir
}
