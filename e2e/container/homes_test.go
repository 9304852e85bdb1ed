package container_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// notes is the application of docs/examples.
const notes = "org.example.notes"

// publishNotes publishes a version of it under a name, for both agents.
func publishNotes(t *testing.T, name, version string) {
	t.Helper()
	const repo = "/srv/notes"
	sh(t, "test -d %[1]s || lull repo init %[1]s", repo)
	// Version 3 and later have the files of version 2.
	sh(t, `from=%[1]s/notes-1; test %[2]s = 1 || from=%[1]s/notes-2
rm -rf /tmp/notes; cp -r $from /tmp/notes; sed -i 's/^version: .*/version: "%[2]s"/; s/^name: .*/name: %[4]s/' /tmp/notes/lull.yaml
lull publish /tmp/notes --repo %[3]s; rm -r /tmp/notes`, filepath.Join(rig.Module(), "docs/examples"), version, repo, name)
}

// ownPolicy is the policy of the ordinary user's own agent.
const ownPolicy = "/home/tester/.config/lull/policy.yaml"

// unifiedAlone reports whether the machine has what an agent of one's own needs.
func unifiedAlone(t *testing.T) bool {
	t.Helper()
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Log("an agent of one's own needs cgroup v2")
	}
	return err == nil
}

// owned starts the ordinary user's own agent, with the repository of publishNotes, and
// returns what makes a command that user's.
func owned(t *testing.T, name string) (user string) {
	t.Helper()
	user = as("tester")
	publishNotes(t, name, "1")
	sh(t, "%smkdir -p /home/tester/.config/lull && echo 'defaults: {auto-refresh: false}' > %s", user, ownPolicy)
	sh(t, "%[1]ssystemctl --user daemon-reload && %[1]ssystemctl --user start lulld && %[1]slull --user repo add notes /srv/notes", user)
	t.Cleanup(func() {
		try(t, "%[1]slull --user remove --purge %[2]s; %[1]slull --user repo remove notes; %[1]ssystemctl --user stop lulld lull-userd.path lull-userd; rm -rf /srv/notes /srv/notes.keys /home/tester/.config/lull", user, name)
	})
	return user
}

// TestHomes: a home that is mounted noexec, is full or is read-only is named by the commands
// of an agent of one's own, and what can work does. So is a missing session bus.
func TestHomes(t *testing.T) {
	here(t)
	if !unifiedAlone(t) {
		return
	}
	installed(t)
	user := owned(t, notes)
	const root = "/home/tester/.local/state/lull"
	sh(t, "%slull --user install %s", user, notes)
	expect := func(code int, text string, command string) {
		t.Helper()
		if o := try(t, "%slull --user %s </dev/null", user, command); o.code != code || !strings.Contains(o.text, text) {
			t.Errorf("lull --user %s: status %d, want %d and %q:\n%s", command, o.code, code, text, o.text)
		}
	}
	mounted := func(what, mount string, check func()) {
		t.Run(what, func(t *testing.T) {
			sh(t, "%s", mount)
			defer sh(t, "umount %s", root)
			check()
		})
	}
	mounted("noexec", "mount --bind "+root+" "+root+" && mount -o remount,bind,noexec "+root, func() {
		expect(77, "mounted noexec", "run "+notes)
		expect(1, "mounted noexec", "doctor")
	})
	publishNotes(t, notes, "2")
	mounted("read-only", "mount --bind "+root+" "+root+" && mount -o remount,bind,ro "+root, func() {
		expect(0, "version 1", "run "+notes)
		expect(1, root+" cannot be written: read-only file system", "refresh "+notes)
		expect(1, root+" cannot be written: read-only file system", "install "+notes+" --key=second")
	})
	expect(0, "", "refresh "+notes)
	expect(0, "version 2", "run "+notes)
	t.Run("small", func(t *testing.T) {
		sh(t, "%slull --user remove --purge %s; %[1]ssystemctl --user stop lulld", user, notes)
		sh(t, "mv %[1]s %[1]s.kept; mkdir %[1]s; mount -t tmpfs -o size=1m,mode=0700,uid=$(id -u tester),gid=$(id -g tester) small %[1]s", root)
		defer sh(t, "%[2]ssystemctl --user stop lulld; umount %[1]s; rmdir %[1]s; mv %[1]s.kept %[1]s; %[2]ssystemctl --user start lulld", root, user)
		sh(t, "mkdir -p /tmp/large/bin; head -c 3M /dev/urandom > /tmp/large/bin/large; chmod 755 /tmp/large/bin/large; printf 'name: org.example.large\\nversion: \"1\"\\napps: [{name: large, command: [bin/large]}]\\n' > /tmp/large/lull.yaml; lull publish /tmp/large --repo /srv/notes; rm -r /tmp/large")
		sh(t, "%[1]ssystemctl --user start lulld", user)
		expect(73, "free", "install org.example.large")
		expect(0, "", "install "+notes)
		expect(0, "version 2", "run "+notes)
	})
	t.Run("without a session bus", func(t *testing.T) { // as from cron and su
		bare := "setpriv --reuid=tester --regid=tester --init-groups env -i PATH=$PATH HOME=/home/tester "
		if o := try(t, "%slull --user list", bare); o.code != 0 {
			t.Errorf("with lingering the bus is found without the environment: %+v", o)
		}
		if o := try(t, "setpriv --reuid=nobody --regid=nogroup --clear-groups env -i PATH=$PATH lull --user list"); o.code != 69 || !strings.Contains(o.text, "this user has no session bus") || !strings.Contains(o.text, "loginctl enable-linger") {
			t.Errorf("a user without a session: %+v", o)
		}
	})
	t.Run("policy and repositories", func(t *testing.T) {
		sh(t, "echo 'no-such-key: 1' > %s", ownPolicy)
		expect(78, ownPolicy+":1: ", "policy check")
		if o := try(t, "%slull policy check", user); o.code != 0 {
			t.Errorf("the system's policy is not concerned: %+v", o)
		}
		expect(1, ownPolicy+":1: ", "doctor")
		if o := try(t, "lull doctor"); strings.Contains(o.text, ownPolicy) {
			t.Errorf("the doctor of the system's agent reads the user's policy: got %+v, want no %s in it", o, ownPolicy)
		}
		expect(0, "/srv/notes", "repo list")
		if o := try(t, "lull repo list"); strings.Contains(o.text, "/srv/notes") {
			t.Errorf("the system's agent has the user's repository: got %+v, want no /srv/notes in it", o)
		}
	})
}

// TestBothAgents: one helper brings the user's data to new versions for the system's agent and
// for the user's own, each in its directory: at once, and after a log-out and log-in.
func TestBothAgents(t *testing.T) {
	here(t)
	if !unifiedAlone(t) {
		return
	}
	installed(t)
	const both = "org.example.both" // its first revision is 1 for both
	user := owned(t, both)
	sh(t, "systemctl start lulld && lull repo add notes /srv/notes && lull install %s", both)
	t.Cleanup(func() {
		try(t, "loginctl enable-linger tester; systemctl start user@$(id -u tester); lull remove --purge %s; lull repo remove notes; %ssystemctl --user disable lulld lull-userd.path lull-userd", both, user)
	})
	sh(t, "%[1]slull --user install %[2]s && %[1]ssystemctl --user enable --now lulld lull-userd.path", user, both)
	write := func(agent, line string) {
		t.Helper()
		sh(t, "echo '%s' | %slull %s run %s", line, user, agent, both)
	}
	write("", "for the system")
	write("--user", "for the user")
	dirs := map[string]string{"": "/home/tester/.local/share/lull/", "--user": "/home/tester/.local/share/lull-user/"}
	// has waits for the user's data of a version, and checks that it is that agent's.
	has := func(agent, rev, line string) {
		t.Helper()
		file := dirs[agent] + both + "/" + rev + "/notes.txt"
		sh(t, "timeout 60 sh -c 'until test -s %s; do sleep 0.2; done'", file)
		if text := sh(t, "cat %s", file); !strings.HasSuffix(text, line) {
			t.Errorf("%s has %q, want %q", file, text, line)
		}
	}
	open := func(agent string) (end func()) {
		t.Helper()
		cmd := exec.Command("bash", "-c", "exec "+user+"lull "+agent+" run "+both)
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		end = sync.OnceFunc(func() {
			in.Close()
			cmd.Wait()
		})
		t.Cleanup(end)
		if line, err := bufio.NewReader(out).ReadString('\n'); !strings.HasPrefix(line, "Notes, version ") {
			t.Fatalf("the application shows %q: %v; want line that begins with %q", line, err, "Notes, version ")
		}
		return end
	}
	// refresh brings both to a version, while the applications run: the path unit starts a
	// helper, which copies in advance, and finishes when they are closed.
	refresh := func(version, system, own string) {
		t.Helper()
		endSystem, endOwn := open(""), open("--user")
		publishNotes(t, both, version)
		sh(t, "lull refresh --no-wait %s && %slull --user refresh --no-wait %[1]s", both, user)
		for _, agent := range []string{"", "--user"} {
			sh(t, "until (%slull %s doctor || true) | grep -q 'helper *lull-userd has registered for you'; do :; done", user, agent)
		}
		if n := sh(t, "pgrep -c -u tester -x lull-userd"); n != "1" {
			t.Errorf("%s helpers run, want 1", n)
		}
		endSystem()
		endOwn()
		has("", version, system)
		has("--user", version, own)
	}
	refresh("2", "for the system", "for the user")

	// While the user is logged out, the system's application is refreshed. The user's own
	// agent is not there.
	uid := sh(t, "id -u tester")
	sh(t, "loginctl disable-linger tester; systemctl stop user@%s", uid)
	publishNotes(t, both, "3")
	sh(t, "lull refresh %s", both)
	if o := try(t, "test -e %s", dirs[""]+both+"/3"); o.code == 0 {
		t.Errorf("the data of a user who is logged out is version 3")
	}
	sh(t, "loginctl enable-linger tester; systemctl start user@%s; %ssystemctl --user start lulld", uid, user)
	write("", "after the log-in") // the launcher brings the data over
	has("", "3", "after the log-in")
	sh(t, "%slull --user refresh %s", user, both)
	write("--user", "after the log-in too")
	has("--user", "3", "after the log-in too")
	refresh("4", "after the log-in", "after the log-in too")
	if text := sh(t, "cat %s", dirs[""]+both+"/2/notes.txt"); text != "for the system" {
		t.Errorf("the data of version 2 is %q, want for the system", text)
	}
}
