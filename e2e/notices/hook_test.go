package notices_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPendingHook: where the user has no systemd, a hook for pending refreshes also runs once,
// without a terminal, and is bounded in time and memory; nothing of it is left.
func TestPendingHook(t *testing.T) {
	const hooked = "org.lull.hooked"
	s := set(t)
	publish := func(version int) {
		dir := s.Path(fmt.Sprint("hooked", version))
		text := fmt.Sprintf("format: 2\nname: %s\nversion: \"%d\"\nsummary: has a hook\napps: [{name: app, command: app}]\nhooks: {refresh-pending: hook}\n", hooked, version)
		err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/lull.yaml", []byte(text), 0o644),
			os.WriteFile(dir+"/app", []byte("#!/bin/sh\necho $$ >\"$LULL_USER_COMMON/app\"\nexec sleep infinity\n"), 0o755),
			os.WriteFile(dir+"/hook", []byte(`#!/bin/sh
tty=$(tty)
(exec 3>/dev/tty) 2>/dev/null && tty="$tty, but /dev/tty opens"
cd "$LULL_USER_COMMON" || exit 3
sleep 100000 &
echo $! >child
head -c 1G /dev/zero | tail >/dev/null && echo survived >>log
echo "$LULL_HOOK from $LULL_REVISION to $LULL_NEW_VERSION, $LULL_URGENCY, deadline ${LULL_DEADLINE:+known}, $tty" >>log
trap '' TERM INT HUP
while :; do sleep 1000; done
`), 0o755))
		if err != nil {
			t.Fatal(err)
		}
		s.MustLull("publish", "--repo", s.Repo, dir)
	}
	common := func(file string) string {
		return filepath.Join(s.User.Home, ".local/share/lull", hooked, "common", file)
	}
	publish(1)
	s.MustLull("install", hooked)
	run := s.User.StartLull(func(c *exec.Cmd) { c.Dir = s.User.Home }, "run", hooked)
	s.UntilFile("it runs", limit, common("app"), func(text string) (bool, string) { return text != "", run.Log() })
	publish(2)
	if r := s.Lull("refresh", hooked); r.Code != 75 {
		t.Fatalf("got %v, want exit status 75", r)
	}
	const want = "refresh-pending from 1 to 2, medium, deadline known, not a tty\n"
	s.UntilFile("the hook has run", 2*time.Minute, common("log"), func(text string) (bool, string) { return text == want, text })
	s.Until("it was ended", 2*time.Minute, func() (bool, string) {
		log := s.helper.Log()
		return strings.Contains(log, "it has not ended within 30s"), log
	})
	child, err := os.ReadFile(common("child"))
	if err != nil {
		t.Fatal(err)
	}
	s.Until("the processes of the hook have ended", limit, func() (bool, string) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z "), string(stat)
	})
	if run.Ended() {
		t.Error("the application has ended with its hook")
	}
	if log, err := os.ReadFile(common("log")); err != nil || string(log) != want {
		t.Errorf("%q, %v; want no error and log %v", log, err, want)
	}
	run.Stop()
	s.Until("version 2 is current", limit, func() (bool, string) {
		o, _ := s.API.Package(hooked)
		return o.Str("Version") == "2", o.Str("Version")
	})
}
