package session_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// hooked publishes a version with a hook for refreshes that become pending.
// The user's file "mode" has what the hook does after it has noted its start.
func (s *stage) hooked(version int) {
	s.Helper()
	s.Publish(s.Tree(fmt.Sprint("h", version), map[string]string{
		"lull.yaml": fmt.Sprintf("format: 2\nname: %s\nversion: \"%d\"\nsummary: has a hook\napps: [{name: app, command: bin/app}]\nhooks: {refresh-pending: bin/hook}\n", app, version),
		"bin/app":   "#!/bin/sh\nexec sleep infinity\n",
		"bin/hook": `#!/bin/sh
cd "$LULL_USER_COMMON" || exit 3
tty=$(tty) # "not a tty"
(exec 3> /dev/tty) 2>/dev/null && tty="$tty, but /dev/tty opens"
echo "$LULL_HOOK from $LULL_REVISION to $LULL_NEW_VERSION, $LULL_URGENCY, deadline ${LULL_DEADLINE:+known}, $tty, bus ${DBUS_SESSION_BUS_ADDRESS:+known}" >> log
case $(cat mode 2>/dev/null) in
hang) trap '' TERM INT HUP; echo $$ > pid; while :; do sleep 1000; done ;;
eat) echo $$ > pid; head -c 1G /dev/zero | tail > /dev/null && echo survived >> log ;;
fork)
	setsid sh -c 'echo $$ > pid; exec sleep 100000' &
	while [ ! -s pid ]; do :; done
	n=0
	while [ $n -lt 300 ]; do sleep 100000 & n=$((n+1)); done
	echo "forked $n" >> log ;;
esac
`,
	}))
}

// testPendingHook: the hook runs in the session of each user whose application the refresh
// waits for, once for each revision, also when the user logs in later and when
// the helper is restarted. A hook that hangs, eats memory or forks affects no
// other, and leaves nothing behind.
func testPendingHook(t *testing.T) {
	s := &stage{rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Auto: true})}
	s.hooked(1)
	s.Begin()
	s.MustLull("install", app)

	modes := map[string]string{"ann": "", "bob": "hang", "carl": "eat", "dora": "fork"}
	users, helpers, runs := map[string]*rig.Actor{}, map[string]*rig.Proc{}, map[string]*rig.Proc{}
	for _, name := range []string{"ann", "bob", "carl", "dora"} {
		a := s.NewUser(name, true)
		users[name], runs[name] = a, a.Start("lull-run", app)
		s.UntilFile(name+" runs it", limit, data(a, "common"), func(string) (bool, string) { return has(data(a, "common")), "" })
		if err := os.WriteFile(data(a, "common/mode"), []byte(modes[name]), 0o644); err != nil {
			t.Fatal(err)
		}
		if name != "dora" {
			helpers[name] = a.StartHelper()
		}
	}
	s.Until("all run", limit, func() (bool, string) {
		o, _ := s.API.Package(app)
		n := len(rig.Processes(o.Props["Processes"]))
		return n == 4, fmt.Sprint(n)
	})
	s.hooked(2)
	s.MustLull("refresh", "--no-wait", app)
	const line = "refresh-pending from 1 to 2, medium, deadline known, not a tty, bus known\n"
	for _, name := range []string{"ann", "bob", "carl"} {
		s.untilLog(users[name], line)
	}
	ended := func(name, why string) {
		t.Helper()
		s.Until("the hook of "+name+" has ended", limit, func() (bool, string) { return strings.Contains(helpers[name].Log(), why), helpers[name].Log() })
		for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) { // systemd drops a unit later, without an event
			units := users[name].Systemctl("list-units", "--all", "--no-legend", "lull_hook-*")
			if units == "" {
				break
			}
			if time.Now().After(end) {
				t.Errorf("units of %s are left:\n%s", name, units)
				break
			}
		}
	}
	gone := func(name string) {
		t.Helper()
		pid := strings.TrimSpace(s.Admin.Must("cat", data(users[name], "common/pid")).Stdout)
		if has("/proc/" + pid) {
			t.Errorf("process %s of the hook of %s is left", pid, name)
		}
	}

	// A user who logs in later is notified then, and no user twice.
	if has(data(users["dora"], "common/log")) {
		t.Error("a hook has run for a user without a session")
	}
	helpers["dora"] = users["dora"].StartHelper()
	s.untilLog(users["dora"], line)
	ended("dora", "a hook has ")
	gone("dora")
	helpers["ann"].Stop()
	helpers["ann"] = users["ann"].StartHelper()

	ended("carl", "a hook has ")
	gone("carl")
	if b, err := os.ReadFile(data(users["carl"], "common/log")); err != nil || strings.Contains(string(b), "survived") {
		t.Errorf("the hook of carl beyond its memory: got the log %q, %v, want no \"survived\" and no error", b, err)
	}
	ended("bob", "it has not ended within 30s")
	gone("bob")

	for name, run := range runs {
		if run.Ended() {
			t.Errorf("the application of %s has ended with the hook, want it to run", name)
		}
		b, err := os.ReadFile(data(users[name], "common/log"))
		if err != nil || strings.Count(string(b), "from 1 to 2") != 1 {
			t.Errorf("the hook of %s was not run once: %s, %v", name, b, err)
		}
	}
	for _, name := range []string{"bob", "carl", "dora"} {
		runs[name].Signal(syscall.SIGTERM)
	}
	// The next revision is another one; that the hook has finished is no condition for
	// the refresh, which waits for the last application.
	s.hooked(3)
	s.MustLull("refresh", "--no-wait", app)
	s.untilLog(users["ann"], "refresh-pending from 1 to 3, ")
	runs["ann"].Signal(syscall.SIGTERM)
	s.Until("version 3 is current", limit, func() (bool, string) {
		o, _ := s.API.Package(app)
		return o.Str("Version") == "3", o.Str("Version")
	})
}
