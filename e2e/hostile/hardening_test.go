package hostile_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// attacks of TestHardening, in the order of docs/hardening.md.
var hardening = []struct {
	name      string // of the assault
	tried     string
	elsewhere bool   // it is a load, which can be had somewhere else
	want      string // what came of it, a regular expression
	outcome   string // the same for people
	restart   bool   // the agent is restarted meanwhile
	waits     bool   // the refresh waits for mallory, who is named, until it is over
}{
	{"deep slices", "18 nested slices below the own user manager, beyond PATH_MAX", true, `18 slices`, "counts as running every application, and is named; the deadline goes for her", true, true},
	{"many slices", "6,000 slices there", true, `6000 slices`, "counts as running every application, and is named; the deadline goes for her", true, true},
	{"a flood of slices", "20,000 slices there", true, `20000 slices`, "counts as running every application, and is named; the deadline goes for her", false, true},
	{"restless groups", "makes and removes a group with the name of a run in a loop", true, `groups came`, "is read once a second", false, false},
	{"the name of a service", "a unit lull-serv-daemon.service of the own", true, `below the user's own`, "does not count for the package", false, false},
	{"leases", "opens packages until it is refused, and goes on asking", true, `^1024 leases, then \d+ LimitsExceeded`, "refused by name", false, false},
	{"helpers", "registers helpers on one connection, 32 calls beside each other", true, `done`, "one helper for one connection", false, false},
	{"long texts", "Why with 60 KiB, 32 calls beside each other", true, `LimitsExceeded`, "refused by name", false, false},
	{"calls without a reply", "2,100 calls of Inspect, Plan and Doctor at once, every two seconds", true, `calls`, "the surplus is dropped", false, false},
	{"connections", "200 connections, each calling in a loop", true, `200 connections`, "served in turn", false, false},
	{"everything on the bus", "the five rows before this one at once", true, `leases, then \d+ [^;]*LimitsExceeded`, "refused by name, or served in turn", false, false},
	{"a confined service", "JoinRun out of a unit with limits, holding the launch lock", true, `^(\d+ (Unavailable|NotPermitted)(, )?)+ *and stays in its unit$`, "refused", false, false},
	{"a lock", "a read lock on lull.serv.lock under the name firefox", true, `held throughout`, "does not count: no launcher", false, false},
	{"open files", "opens every file of the package in a loop", true, `opens and closes`, "the seal is tried again", false, false},
	{"a deep directory", "stays in a directory deeper than PATH_MAX", false, `no path reaches`, "collections go on", false, false},
	{"launches", "starts the application in a loop, four beside each other", true, `launches`, "they are launches", false, false},
	{"calls for others", "Revert, Remove, Refresh, a hold for ever, Answer, Reload, Collect", false,
		`^Revert NotPermitted, Remove NotPermitted, Refresh NotPermitted, Hold NotPermitted, Answer NotFound, Reload NotPermitted, Collect NotPermitted$`, "refused", false, false},
	{"a slow repository", "a web server that sends one byte in ten seconds", false, `one byte`, "others are refreshed meanwhile", false, false},
}

// installScript puts all in place in the container. mallory attacks, vic works.
const installScript = `
cp -a /opt/tree/. /
systemctl daemon-reload
systemd-tmpfiles --create lull.conf
busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig
mkdir -p /etc/lull
echo 'schedule: {check: 0}' > /etc/lull/policy.yaml
systemctl enable --now lulld
for user in mallory vic; do
	useradd --create-home --shell /bin/bash $user
	loginctl enable-linger $user
	systemctl start user@$(id -u $user).service
done
mkdir -p /srv/notes/bin /srv/serv/bin /srv/other/bin
printf '#!/bin/sh\n[ -z "$1" ] || exec sleep "$1"\n' > /srv/notes/bin/app
printf '#!/bin/sh\nexec sleep 1000000\n' > /srv/serv/bin/daemon
printf '#!/bin/sh\n' > /srv/other/bin/app
chmod +x /srv/*/bin/*
for i in $(seq 200); do echo $i > /srv/serv/$i; done
printf 'name: notes\nversion: "1"\nsummary: is started\napps: [{name: notes, command: bin/app}]\n' > /srv/notes/lull.yaml
printf 'name: serv\nversion: "1"\nsummary: is refreshed\nservices: [{name: daemon, command: bin/daemon}]\n' > /srv/serv/lull.yaml
printf 'name: other\nversion: "1"\nsummary: is slow\napps: [{name: other, command: bin/app}]\n' > /srv/other/lull.yaml
lull repo init /srv/repo
lull publish --repo /srv/repo /srv/notes
lull publish --repo /srv/repo /srv/serv
lull repo init /srv/slow
lull publish --repo /srv/slow /srv/other
systemd-run --quiet --unit=slow --setenv=LULL_TEST_SERVE=1 /opt/attack/attack
lull repo add local /srv/repo
timeout 60 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/8099) 2>/dev/null; do sleep 0.1; done'
lull repo add --trust $(ls /srv/slow/metadata/*root.json | tail -1) slow http://127.0.0.1:8099
lull install notes serv other
`

// row is a line of the table.
type row struct {
	name, tried, outcome, said string
	elsewhere                  *timings
	aimed                      timings
	refresh, collect, restart  time.Duration // what others have waited for
	memory                     int           // of the agent at most, in KiB
}

// field is a container with lull, mallory and vic in it.
type field struct {
	*testing.T
	c       *rig.Container
	version int // of the package that is refreshed
}

// TestHardening has one user of a machine attack lull in all known ways, while
// another one works: the user's applications start, the administrator's
// refreshes and collections are done, and the agent stays small. With
// LULL_HARDENING=FILE it measures how long they wait (LULL_HARDENING_N times),
// and writes the table into that file.
func TestHardening(t *testing.T) {
	require.NotShort(t)
	require.Container(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("install", "-m755", self, filepath.Join(dir, "attack")).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := &field{T: t, version: 1, c: rig.BootContainer(t, rig.ContainerOptions{ReadOnly: []string{rig.Installed(t, "") + ":/opt/tree", dir + ":/opt/attack"}})}
	f.root(installScript)

	to, n := os.Getenv("LULL_HARDENING"), 3
	if to != "" {
		if n, err = strconv.Atoi(os.Getenv("LULL_HARDENING_N")); err != nil || n < 2 {
			t.Fatalf("LULL_HARDENING_N=%s is no number above 1", os.Getenv("LULL_HARDENING_N"))
		}
	}
	f.slices()
	began := time.Now()
	var quiet row
	quiet.aimed = f.probe(n)
	quiet.refresh, quiet.collect = f.others(false)
	quiet.restart = f.timed("systemctl restart lulld")
	var rows []row
	for _, h := range hardening {
		if only := os.Getenv("LULL_HARDENING_ONLY"); only != "" && only != h.name {
			continue
		}
		t.Run(h.name, func(t *testing.T) {
			f := &field{T: t, c: f.c, version: f.version}
			r := row{name: h.name, tried: h.tried, outcome: h.outcome}
			if to != "" && h.elsewhere {
				end := f.assault(h.name, false)
				got := f.probe(n)
				r.elsewhere = &got
				end()
			}
			pid := f.agent()
			f.root("echo 5 > /proc/" + pid + "/clear_refs") // forgets VmHWM, proc_pid_clear_refs(5)
			end := f.assault(h.name, true)
			r.aimed = f.probe(n)
			r.refresh, r.collect = f.others(h.waits)
			r.memory = f.peak(pid)
			if now := f.agent(); now != pid {
				t.Errorf("the agent was process %s and is %s; want %v", pid, now, pid)
			}
			if h.restart {
				r.restart = f.timed("systemctl restart lulld")
				f.probe(1)
			}
			r.said = end()
			if h.waits {
				f.root("timeout 100 lull refresh --wait " + target)
				f.uses(f.version)
			}
			t.Logf("%s; refresh %v, gc %v, agent %d KiB", r.said, r.refresh, r.collect, r.memory)
			if !regexp.MustCompile(h.want).MatchString(r.said) {
				t.Errorf("it says %q, want %s", r.said, h.want)
			}
			if r.memory > 64<<10 {
				t.Errorf("the agent took %d KiB of memory, want at most %d", r.memory, 64<<10)
			}
			rows = append(rows, r)
		})
		f.version += 10
	}
	if quiet2 := f.probe(n); to != "" {
		quiet.aimed.Launch = append(quiet.aimed.Launch, quiet2.Launch...)
		quiet.aimed.Status = append(quiet.aimed.Status, quiet2.Status...)
	}
	f.disabled()
	if to != "" && !t.Failed() {
		writeFigures(t, to, n, time.Since(began), quiet, rows)
	}
}

// slices: a run that the agent makes, for a launcher in a session, is below the slice of
// that session's user, and is seen there until it ends.
func (f *field) slices() {
	f.Helper()
	const running = "/run/lull/runctl/lull." + used + ".running"
	end := f.assault("a run", true)
	if r := f.c.Run("test", "-e", running); r.Code != 0 {
		f.Error("there is no marker of the run")
	}
	id := f.root("id -u mallory")
	if got := end(); !strings.HasPrefix(got, fmt.Sprintf("/user.slice/user-%s.slice/user-%[1]s-lull.slice/app-lull-notes-", id)) {
		f.Errorf("the run is in %q, want it below the slice user-%s-lull.slice", got, id)
	}
	f.root("timeout 60 bash -c 'while test -e " + running + "; do sleep 0.1; done'")
}

// disabled: an agent that the administrator has disabled is not started by any user's call.
func (f *field) disabled() {
	f.Helper()
	f.root("systemctl disable --now lulld")
	cmd := f.user("mallory", nil, "lull", "list")
	if out, err := cmd.CombinedOutput(); err == nil {
		f.Errorf("mallory has started the agent: got %s, want an error", out)
	}
	f.root("! systemctl is-active --quiet lulld")
}

// root runs a script as root, which must succeed, and returns what it prints.
func (f *field) root(script string) string {
	f.Helper()
	r := f.c.Service(5*time.Minute, nil, "bash", "-euc", script)
	if r.Code != 0 {
		f.Fatalf("%s: status %d\n%s\n%s", script, r.Code, r.Text(), f.c.Run("journalctl", "-b", "-u", "lulld", "-n", "60", "--no-pager", "-o", "cat").Stdout)
	}
	return strings.TrimSpace(r.Stdout)
}

// timed is how long a script of root's takes.
func (f *field) timed(script string) time.Duration {
	f.Helper()
	took := f.root("start=$(date +%s%N)\n{ " + script + "; } >&2\necho $(( $(date +%s%N) - start ))")
	n, err := strconv.ParseInt(took, 10, 64)
	if err != nil {
		f.Fatalf("%s: %v", script, err)
	}
	return time.Duration(n)
}

// others is how long the administrator waits: for a refresh of the package with the
// service, or the answer that it waits for mallory, and for a collection.
func (f *field) others(waits bool) (refresh, collect time.Duration) {
	f.Helper()
	f.version++
	f.root(fmt.Sprintf("sed -i 's/^version.*/version: \"%d\"/' /srv/serv/lull.yaml; lull publish --repo /srv/repo /srv/serv", f.version))
	if waits {
		refresh = f.timed("code=0; text=$(lull refresh " + target + " 2>&1) || code=$?; echo \"$text\"; test $code = 75; grep 'user mallory' <<<\"$text\"")
	} else {
		refresh = f.timed("lull refresh " + target)
		f.uses(f.version)
	}
	return refresh, f.timed("lull gc")
}

// uses checks which version of the package is in use.
func (f *field) uses(version int) {
	f.Helper()
	if got := f.root("lull list | grep '^" + target + "'"); !strings.Contains(got, strconv.Itoa(version)) {
		f.Errorf("version %d is not in use: %s", version, got)
	}
}

func (f *field) agent() string { f.Helper(); return f.root("systemctl show --value -p MainPID lulld") }

// peak is the most memory that a process has had since the last reset, in KiB.
func (f *field) peak(pid string) int {
	f.Helper()
	n, err := strconv.Atoi(f.root("awk '/^VmHWM/ {print $2}' /proc/" + pid + "/status"))
	if err != nil {
		f.Fatal(err)
	}
	return n
}

// user makes a command that runs in a session of a user's.
func (f *field) user(name string, env []string, argv ...string) *exec.Cmd {
	args := []string{"systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--uid=" + name, "--property=PAMName=login", "--working-directory=/home/" + name}
	for _, e := range env {
		args = append(args, "--setenv="+e)
	}
	return f.c.Command(append(append(args, "--"), argv...)...)
}

// probe has vic launch and ask for the status n times.
func (f *field) probe(n int) (got timings) {
	f.Helper()
	cmd := f.user("vic", []string{"LULL_TEST_PROBE=" + strconv.Itoa(n)}, "/opt/attack/attack")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &got)
	}
	if err != nil {
		f.Fatalf("vic cannot work: %v\n%s%s", err, out, stderr.String())
	}
	return got
}

// assault has mallory begin; end stops her, and returns what came of it.
func (f *field) assault(name string, aimed bool) (end func() string) {
	f.Helper()
	env := []string{"LULL_TEST_ASSAULT=" + name}
	if !aimed {
		env = append(env, "LULL_TEST_ELSEWHERE=1")
	}
	as := "mallory"
	if name == "a slow repository" {
		as = "root" // whose web server it is
	}
	cmd := f.user(as, env, "/opt/attack/attack")
	if as == "root" {
		cmd = f.c.Command("env", env[0], "/opt/attack/attack")
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		f.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		f.Fatal(err)
	}
	lines := bufio.NewReader(out)
	timer := time.AfterFunc(5*time.Minute, func() { in.Close(); out.Close() })
	defer timer.Stop()
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		in.Close()
		cmd.Wait()
		f.Fatalf("the attacker says %q, %v\n%s", line, err, stderr.String())
	}
	f.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return func() string {
		f.Helper()
		in.Close()
		rest, err := io.ReadAll(lines)
		if werr := cmd.Wait(); err != nil || werr != nil {
			f.Fatalf("the attacker has failed: %v %v\n%s%s", err, werr, rest, stderr.String())
		}
		return strings.TrimSpace(string(rest))
	}
}

// worst is the 99th percentile.
func worst(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max((len(sorted)*99+99)/100-1, 0)]
}
