package container_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/e2e/rig"
)

// Where TestWithSystemd shows the container what `make install` installs, and
// lull's programs with fault points.
const (
	treeDir  = "/opt/tree"
	faultDir = "/opt/fault"
)

// outcome is how a command has ended.
type outcome struct {
	code int
	text string
}

// try runs a script as root.
func try(t *testing.T, format string, args ...any) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*limit) // also at the end of a test
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euc", fmt.Sprintf(format, args...))
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s has not ended: %s", format, out)
	}
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), string(out)}
}

// sh is try for what must succeed.
func sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	o := try(t, format, args...)
	if o.code != 0 {
		t.Fatalf("%s: status %d\n%s\n%s", fmt.Sprintf(format, args...), o.code, o.text, try(t, "journalctl -b -n 60 --no-pager").text)
	}
	return strings.TrimSpace(o.text)
}

// as makes a command one of the ordinary user's, whose systemd runs.
func as(user string) string {
	return fmt.Sprintf("setpriv --reuid=%[1]s --regid=%[1]s --init-groups env HOME=/home/%[1]s USER=%[1]s XDG_RUNTIME_DIR=/run/user/$(id -u %[1]s) ", user)
}

// installed puts everything in its place, enabled. The agent is started when it is called.
func installed(t *testing.T) {
	t.Helper()
	sh(t, "cp -a %s/. / && systemctl daemon-reload && systemctl enable lulld && systemd-tmpfiles --create lull.conf", treeDir)
	sh(t, "busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig")
	sh(t, "mkdir -p /etc/lull && echo 'schedule: {check: 31d}' > /etc/lull/policy.yaml")
	t.Cleanup(func() { try(t, "systemctl stop lulld; rm -rf /etc/systemd/system/lulld.service.d") })
}

// journal waits until lulld's journal has a text.
func journal(t *testing.T, text string) {
	t.Helper()
	sh(t, "timeout 40 grep -q -m1 -F -- '%s' < <(exec journalctl -b -f -n all -o cat -u lulld)", text)
}

// TestInstalled: units, catalog, reload, watchdog and sandbox of what is installed.
func TestInstalled(t *testing.T) {
	here(t)
	installed(t)

	t.Run("systemd-analyze", func(t *testing.T) {
		for _, scope := range []string{"system", "user"} {
			units, err := filepath.Glob(treeDir + "/usr/lib/systemd/" + scope + "/*.*")
			if err != nil || len(units) == 0 {
				t.Fatalf("no units: %v", err)
			}
			for _, u := range units {
				if u = strings.TrimPrefix(u, treeDir); strings.HasSuffix(u, ".d") {
					continue // a directory of drop-ins
				}
				before := map[string]string{"system": "", "user": as("tester")}[scope]
				if o := try(t, before+"systemd-analyze verify --%s --man=no %s", scope, u); o.code != 0 || o.text != "" {
					t.Errorf("%s: %+v; want code 0 and no text", u, o)
				}
			}
		}
		// Ten times what it prints.
		o := try(t, "systemd-analyze security --offline=yes --no-pager --threshold=40 /usr/lib/systemd/system/lulld.service")
		if o.code != 0 {
			t.Errorf("got %+v, want code 0", o)
		}
		t.Log(o.text[strings.LastIndex(o.text, "→"):])
	})

	t.Run("catalog", func(t *testing.T) {
		if out := sh(t, "journalctl --update-catalog"); out != "" {
			t.Errorf("it says %q; want no output", out)
		}
		list := sh(t, "journalctl --list-catalog --no-pager")
		for _, m := range messages.All {
			if !strings.Contains(list, string(m.ID)+" lull: "+m.Subject) {
				t.Errorf("%s is not in the catalog", m.Subject)
			}
		}
	})

	t.Run("started by a call", func(t *testing.T) {
		if o := try(t, "systemctl is-active lulld"); strings.TrimSpace(o.text) != "inactive" {
			t.Fatalf("before a call lulld is %+v, want inactive", o)
		}
		sh(t, "busctl call org.lull.Agent1 /org/lull/Agent1 org.freedesktop.DBus.Peer Ping")
		// The bus may pass the call on before systemd has read that the service is ready.
		if o := try(t, "systemctl is-active lulld"); !slices.Contains([]string{"active", "activating"}, strings.TrimSpace(o.text)) {
			t.Errorf("after a call lulld is %+v, want active or activating", o)
		}
	})

	t.Run("disabled by the administrator", func(t *testing.T) {
		sh(t, "systemctl disable --now lulld")
		defer sh(t, "systemctl enable --now lulld")
		if o := try(t, "timeout 60 lull list"); o.code == 0 {
			t.Errorf("lull list while lulld is disabled: got %+v, want a failure", o)
		}
		if o := try(t, "systemctl is-active lulld"); strings.TrimSpace(o.text) != "inactive" {
			t.Errorf("while it is disabled lulld is %+v, want inactive", o)
		}
	})

	t.Run("reload", func(t *testing.T) {
		pid := sh(t, "systemctl show --value -p MainPID lulld")
		sh(t, "systemctl reload lulld && lull policy")
		sh(t, "echo 'no-such-key: 1' > /etc/lull/policy.d.yaml; mkdir -p /etc/lull/policy.d; mv /etc/lull/policy.d.yaml /etc/lull/policy.d/10-bad.yaml")
		const where = "/etc/lull/policy.d/10-bad.yaml:1: "
		if o := try(t, "systemctl reload lulld"); o.code == 0 {
			t.Errorf("a bad policy is not refused: %+v", o)
		}
		journal(t, where)
		if o := try(t, "lull policy reload"); o.code != 78 || !strings.Contains(o.text, where) {
			t.Errorf("got %+v, want code 78 and %q in the text", o, where)
		}
		if o := try(t, "lull policy"); o.code != 78 || !strings.Contains(o.text, where) || !strings.Contains(o.text, "the previous policy stays in force") {
			t.Errorf("got %+v, want code 78, %q in the text and %q in the text", o, where, "the previous policy stays in force")
		}
		if o := try(t, "lull doctor"); o.code == 0 || !strings.Contains(o.text, "fail  policy") || !strings.Contains(o.text, where) {
			t.Errorf("lull doctor with a bad policy: got %+v, want a failure, \"fail  policy\" and %q", o, where)
		}
		sh(t, "rm /etc/lull/policy.d/10-bad.yaml; systemctl kill --kill-whom=main --signal=HUP lulld")
		journal(t, "policy and repositories were read again")
		sh(t, "systemctl reload lulld && lull policy")
		if now := sh(t, "systemctl show --value -p MainPID lulld"); now != pid {
			t.Errorf("process %s has become %s; want %v", pid, now, pid)
		}
		// An agent that starts with it uses the last valid one, and reports that.
		sh(t, "echo 'no-such-key: 1' > /etc/lull/policy.d/10-bad.yaml; systemctl restart lulld")
		if got := sh(t, "systemctl show -p ActiveState -p ExecMainStatus -p NRestarts lulld | sort | tr '\\n' ' '"); got != "ActiveState=active ExecMainStatus=0 NRestarts=0" {
			t.Errorf("with a bad policy the unit has %s, want ActiveState=active ExecMainStatus=0 NRestarts=0", got)
		}
		if o := try(t, "lull doctor"); o.code == 0 || !strings.Contains(o.text, "fail  policy") || !strings.Contains(o.text, where) {
			t.Errorf("lull doctor after a start with a bad policy: got %+v, want a failure, \"fail  policy\" and %q", o, where)
		}
		sh(t, "rm /etc/lull/policy.d/10-bad.yaml; systemctl reset-failed lulld; systemctl restart lulld")
	})

	t.Run("a newer format", newerFormat)
	t.Run("boot assessment", bootAssessment)
	t.Run("read-only", readOnly)
	t.Run("sandbox", sandbox)
	t.Run("watchdog", watchdog)

	if out := try(t, "journalctl -b -u lulld -o cat --no-pager | grep -i 'not permitted\\|permission denied\\|read-only file'"); out.text != "" {
		t.Errorf("something is refused to the agent, want no such line in its journal:\n%s", out.text)
	}
}

// newerFormat: an agent that finds the store of a newer lull fails once, and is not
// started over and over.
func newerFormat(t *testing.T) {
	sh(t, "systemctl stop lulld; echo 2 >/var/lib/lull/format")
	defer sh(t, "echo 1 >/var/lib/lull/format; systemctl reset-failed lulld; systemctl start lulld")
	if o := try(t, "systemctl start lulld"); o.code == 0 {
		t.Errorf("the start with the store of a newer lull: got %+v, want a failure", o)
	}
	if got := sh(t, "systemctl show -p ActiveState -p ExecMainStatus -p NRestarts lulld | sort | tr '\\n' ' '"); got != "ActiveState=failed ExecMainStatus=65 NRestarts=0" {
		t.Errorf("the unit has %s, want ActiveState=failed ExecMainStatus=65 NRestarts=0", got)
	}
	journal(t, "a newer lull has changed it to format 2")
}

// bootAssessment: if an image requires the agent, a boot without it
// is not complete, so that systemd-bless-boot.service does not bless it.
func bootAssessment(t *testing.T) {
	sh(t, "systemctl add-requires boot-complete.target lulld.service; systemctl daemon-reload")
	defer sh(t, "rm -r /etc/systemd/system/boot-complete.target.requires; systemctl daemon-reload")
	sh(t, "systemctl start lulld boot-complete.target; systemctl is-active boot-complete.target; systemctl stop boot-complete.target lulld")
	const dropin = "/run/systemd/system/lulld.service.d/broken.conf"
	sh(t, "mkdir -p $(dirname %s); printf '[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n' >%[1]s; systemctl daemon-reload", dropin)
	defer sh(t, "rm %s; systemctl daemon-reload; systemctl reset-failed lulld; systemctl start lulld", dropin)
	if o := try(t, "systemctl start boot-complete.target"); o.code == 0 {
		t.Errorf("the start of boot-complete.target without the agent: got %+v, want a failure", o)
	}
	if state := try(t, "systemctl is-active boot-complete.target").text; strings.TrimSpace(state) != "inactive" {
		t.Errorf("boot-complete.target without the agent is %s, want inactive", state)
	}
}

// readOnly: an agent that starts while its root cannot be written, in a sandbox with a
// copy of the mounts as they were then, goes on when it can.
func readOnly(t *testing.T) {
	sh(t, "systemctl stop lulld; mount -t tmpfs lull-test /var/lib/lull; systemctl start lulld; systemctl stop lulld; mount -o remount,ro /var/lib/lull; systemctl start lulld")
	defer try(t, "systemctl stop lulld; until umount /var/lib/lull; do sleep 0.1; done; systemctl reset-failed lulld; systemctl start lulld")
	if o := try(t, "lull doctor"); !strings.Contains(o.text, "fail  root") {
		t.Errorf("got %+v, want %q in the text", o, "fail  root")
	}
	sh(t, "mount -o remount,rw /var/lib/lull")
	journal(t, "which the machine can by now: lulld must be restarted")
	sh(t, "timeout 40 bash -c 'until lull doctor 2>&1 | grep -q \"ok    root\"; do sleep 0.1; done'")
}

// sandbox: all actions of an agent, in its unit's sandbox, with a /usr that is read-only
// for every process, as that of an image.
func sandbox(t *testing.T) {
	sh(t, "mount --bind /usr /usr && mount -o remount,bind,ro /usr && systemctl restart lulld")
	defer sh(t, "umount --lazy /usr && systemctl restart lulld") // what has been started since executes files of it
	if o := try(t, "touch /usr/lib/lull-test"); o.code == 0 || !strings.Contains(o.text, "Read-only") {
		t.Fatalf("/usr is not read-only: %+v", o)
	}
	const app = "org.lull.boxed"
	const grep = "grep -h '^NoNewPrivs\\|^Seccomp\\|^CapBnd' "
	user := as("tester")
	publish := func(version string) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), version)
		rig.WriteTree(t, dir, map[string]string{
			"lull.yaml": "name: " + app + "\nversion: \"" + version + "\"\nsummary: is tested\napps: [{name: app, command: bin/app}]\n" +
				"services: [{name: svc, command: bin/svc, user: tester}]\nhooks: {health: bin/health}\ndata: {versioned: true}\n",
			"bin/app": "#!/bin/sh\necho version " + version + "\n[ -z \"$1\" ] || exec sleep 100000\n",
			// Actions that the agent itself must not take. Its data has files
			// that are hard to copy.
			"bin/svc": "#!/bin/sh\nmkdir -p $LULL_DATA/shared; chmod 2750 $LULL_DATA/shared; touch $LULL_DATA/shared/" + version + "\n" +
				grep + "/proc/self/status > $LULL_DATA/box\nexec sleep 100000\n",
			"bin/health": "#!/bin/sh\nuntil [ -s $LULL_DATA/box ]; do sleep 0.01; done\n",
		})
		sh(t, "lull publish --repo /home/repo %s", dir)
	}
	// A repository may be in a home, or below /tmp.
	sh(t, "lull repo init /home/repo")
	publish("1")
	sh(t, "lull repo add local /home/repo && lull install %s", app)
	if out := sh(t, user+"lull run %s", app); out != "version 1" {
		t.Errorf("it says %q, want version 1", out)
	}
	box := sh(t, "cat /var/lib/lull/data/%s/1/box", app)
	if free := sh(t, grep+"/proc/1/status"); box != free {
		t.Errorf("a service has the box %q, process 1 %q; want box %v", box, free, free)
	}
	if own := sh(t, grep+"/proc/$(systemctl show --value -p MainPID lulld)/status"); !strings.Contains(own, "NoNewPrivs:\t1") || own == box {
		t.Errorf("the agent has no box: %s", own)
	}

	// A refresh that waits, and goes on by itself.
	sh(t, "systemd-run --quiet --unit=running --uid=tester --setenv=XDG_RUNTIME_DIR=/run/user/$(id -u tester) lull run %s on", app)
	sh(t, "timeout 30 grep -q 'version 1' < <(exec journalctl -b -f -n all -o cat -t lull)")
	publish("2")
	if o := try(t, "lull refresh %s", app); o.code != 75 {
		t.Errorf("got %+v, want code 75", o)
	}
	journal(t, "a refresh waits until the application is closed")
	sh(t, "systemd-run --quiet --unit=waiting --collect lull refresh --wait %s; kill $(systemctl show --value -p MainPID running)", app)
	journal(t, "refresh of "+app+": done")
	if out := sh(t, user+"lull run %s", app); out != "version 2" {
		t.Errorf("it says %q, want version 2", out)
	}
	if out := sh(t, "stat -c '%%a %%U' /var/lib/lull/data/%s/2/shared", app); out != "2750 tester" {
		t.Errorf("the data that was copied is %s, want 2750 tester", out)
	}

	// A package that is opened has a path for who opens it; what is run from it
	// outside any run is seen.
	hash := sh(t, "basename $(readlink -f /var/lib/lull/current/%s)", app)
	if out := sh(t, user+"lull open %s -- /bin/pwd -P", app); out != "/var/lib/lull/packages/"+hash {
		t.Errorf("it was opened in %q, want %v", out, "/var/lib/lull/packages/"+hash)
	}
	stray := exec.Command("sleep", "100000")
	stray.Dir = "/var/lib/lull/packages/" + hash
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stray.Process.Kill(); stray.Wait() }()
	// No command line may name the package: that would be a use of it as well.
	sh(t, "lull remove %s && lull gc", app)
	if _, err := os.Stat(stray.Dir); err != nil {
		t.Errorf("what a process uses is gone: %v", err)
	}
	journal(t, "processes use packages outside any run")
	stray.Process.Kill()
	stray.Wait()
	sh(t, "lull gc")
	if _, err := os.Stat(stray.Dir); err == nil {
		t.Errorf("it is still there: %s", sh(t, "lull why %s", hash))
	}
	sh(t, "lull verify")
	if out := sh(t, "journalctl -b -x --no-pager MESSAGE_ID=%s LULL_INSTANCE=%s", messages.RefreshDone, app); !strings.Contains(out, "Subject: Done: refresh "+app) ||
		!strings.Contains(out, "lull revert "+app+" goes back") {
		t.Errorf("the journal explains it so: got %s, want %q in the output and %q in the output", out, "Subject: Done: refresh "+app, "lull revert "+app+" goes back")
	}
	o := try(t, "lull doctor")
	t.Logf("the doctor:\n%s", o.text)
	if o.code != 0 || !strings.Contains(o.text, "ok    polkit") || !strings.Contains(o.text, "and started when it is called") {
		t.Errorf("got %+v, want code 0, %q in the text and %q in the text", o, "ok    polkit", "and started when it is called")
	}
	if o := try(t, "%slull doctor", user); o.code != 0 || !strings.Contains(o.text, "ok    helper") || !strings.Contains(o.text, "none is needed while nothing is pending") {
		t.Errorf("got %+v, want code 0, %q in the text and %q in the text", o, "ok    helper", "none is needed while nothing is pending")
	}
}

// watchdog: an agent whose loop hangs, which does not end its process, is
// restarted; while it does not hang, it is left alone.
func watchdog(t *testing.T) {
	sh(t, "mkfifo /run/gate; mkdir -p /etc/systemd/system/lulld.service.d; cat > /etc/systemd/system/lulld.service.d/watchdog.conf <<'END'\n"+
		"[Service]\nWatchdogSec=2s\nEnvironment=LULL_FAULT=api.policy:gate LULL_FAULT_GATE=/run/gate\nExecStart=\n"+
		"ExecStart=%[1]s/lulld --launcher=%[1]s/lull-run --release-agent=%[1]s/lull-release-agent\nEND\nsystemctl daemon-reload; systemctl restart lulld", faultDir)
	fed := func() string { return sh(t, "systemctl show --value -p WatchdogTimestampMonotonic lulld") }
	seen := map[string]bool{}
	for deadline := time.Now().Add(limit); len(seen) < 4 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) { // there is no event for it
		seen[fed()] = true
	}
	before := sh(t, "systemctl show --value -p MainPID lulld")
	if n := sh(t, "systemctl show --value -p NRestarts lulld"); n != "0" || len(seen) < 4 {
		t.Errorf("the agent was restarted %s times and fed the watchdog %d times, want 0 and at least 4", n, len(seen))
	}
	sh(t, "busctl call org.lull.Agent1 /org/lull/Agent1 org.lull.Agent1.Manager Reload >/dev/null 2>&1 &") // it has no reply before the loop hangs
	// The bus is answered all the same.
	sh(t, "busctl call org.lull.Agent1 /org/lull/Agent1 org.freedesktop.DBus.Peer Ping")
	sh(t, "timeout 40 grep -q -m1 'Watchdog timeout' < <(exec journalctl -b -f -n all -o cat -u lulld)")
	sh(t, "timeout 40 bash -c 'until test \"$(systemctl show --value -p NRestarts lulld)$(systemctl is-active lulld)\" = 1active; do sleep 0.1; done'")
	if now := sh(t, "systemctl show --value -p MainPID lulld"); now == before || now == "0" {
		t.Errorf("the process of the agent was %s and is %s, want another that runs", before, now)
	}
	sh(t, "lull status")
}
