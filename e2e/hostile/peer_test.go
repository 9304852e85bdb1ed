package hostile_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// attacks are what a user does to the agent on its bus. Each prints a line about
// what came of it and goes on holding what it has.
var attacks = map[string]func(conn *dbus.Conn) string{
	"leases": func(conn *dbus.Conn) string {
		for n := 0; ; n++ {
			var dir, lease dbus.UnixFD
			var hash string
			err := conn.Object(bus.AgentName, bus.AgentPath).Call(bus.ManagerInterface+".Open", 0, "org.lull.notes").Store(&dir, &lease, &hash)
			if err != nil {
				return fmt.Sprintf("%d leases, then %s", n, nameOf(err))
			}
			syscall.Close(int(dir))
		}
	},
	"helpers": func(conn *dbus.Conn) string {
		const most = 1000
		calls := make(chan *dbus.Call, most)
		for range most {
			conn.Object(bus.AgentName, bus.AgentPath).Go(bus.ManagerInterface+".RegisterHelper", 0, calls, map[string]dbus.Variant{})
		}
		return tally(calls, most)
	},
	"readers": func(conn *dbus.Conn) string {
		for range 700 {
			for _, m := range []string{bus.ManagerInterface + ".Inspect", bus.SpaceInterface + ".Plan", bus.ManagerInterface + ".Doctor"} {
				conn.Object(bus.AgentName, bus.AgentPath).Go(m, dbus.FlagNoReplyExpected, nil)
			}
		}
		return "sent"
	},
	"join": func(conn *dbus.Conn) string { // as a launcher does, with the lock held
		lock := readLock(os.Getenv("LULL_TEST_LOCK"))
		defer lock.Close()
		return fmt.Sprint(conn.Object(bus.AgentName, bus.AgentPath).Call(bus.ManagerInterface+".JoinRun", 0, "org.lull.stays", os.Getenv("LULL_TEST_HASH"), "").Err)
	},
	"texts": func(conn *dbus.Conn) string {
		const most = 400
		long := strings.Repeat("x", 60<<10)
		calls := make(chan *dbus.Call, most)
		for range most {
			conn.Object(bus.AgentName, bus.AgentPath).Go(bus.ManagerInterface+".Why", 0, calls, long)
		}
		return tally(calls, most)
	},
}

func nameOf(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return err.Error()
}

// tally waits for n calls and counts how they ended.
func tally(calls <-chan *dbus.Call, n int) string {
	ends := map[string]int{}
	for range n {
		c := <-calls
		if c.Err != nil {
			ends[nameOf(c.Err)]++
		} else {
			ends["done"]++
		}
	}
	return fmt.Sprint(ends)
}

// attack is this program in the place of a hostile one.
func attack(name, address string) {
	conn, err := dbus.Connect(address)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(attacks[name](conn))
	select {} // until the test kills it
}

// TestOneUserOnTheBusLeavesTheAgentToOthers: caps per user, on each kind of bus.
func TestOneUserOnTheBusLeavesTheAgentToOthers(t *testing.T) {
	require.Program(t, "setpriv")
	w, _ := world(t, rig.Options{})
	w.MustLull("install", "org.lull.notes")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := w.Path("attacker")
	if out, err := exec.Command("install", "-m755", self, program).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	want := map[string]string{"leases": "1024 leases, then org.lull.Error.LimitsExceeded", "helpers": "done:", "readers": "sent", "texts": "org.lull.Error.LimitsExceeded"}
	for name := range want {
		t.Run(name, func(t *testing.T) {
			or, ow, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer or.Close()
			p := w.User.StartWith(func(c *exec.Cmd) {
				c.Stdout = ow
				c.Env = append(c.Env, "LULL_TEST_ATTACK="+name, "LULL_TEST_ADDRESS="+w.Bus.Address)
			}, program)
			ow.Close()
			defer p.Kill()
			if err := or.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
				t.Fatal(err)
			}
			said, err := bufio.NewReader(or).ReadString('\n')
			if err != nil {
				t.Fatalf("the attacker says nothing: %v\n%s", err, p.Log())
			}
			if !strings.Contains(said, want[name]) {
				t.Errorf("it says %q, want %q", said, want[name])
			}
			t.Log(strings.TrimSpace(said))
			// Others are served, meanwhile.
			conn, err := bus.DialFDs(t.Context(), w.Bus.Address, false)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			m := bus.NewManagerProxy(conn, bus.AgentPath)
			if err := m.RegisterHelper(ctx, map[string]dbus.Variant{}); err != nil {
				t.Errorf("the helper of another user: %v", err)
			}
			if dir, lease, _, err := m.Open(ctx, "org.lull.notes"); err != nil {
				t.Errorf("another user's lease: %v", err)
			} else {
				dir.Close()
				lease.Close()
			}
			if r := w.Lull("list"); r.Code != 0 {
				t.Errorf("got %v, want exit status 0", r)
			}
			if peak := memoryOf(t, w.Agent().PID, "VmHWM"); peak > 64<<10 {
				t.Errorf("the agent took %d KiB of memory, want at most %d", peak, 64<<10)
			} else {
				t.Logf("the agent took %d KiB at most", peak)
			}
			p.Kill()
			<-p.Done()
		})
	}
	if w.Agent().Ended() {
		t.Fatal("the agent has ended")
	}
	// The attacker's share is released.
	w.Until("the leases have ended", time.Minute, func() (bool, string) {
		r := w.Lull("inspect", "--json")
		return strings.Count(r.Stdout, `"client attacker`) == 0, r.Stdout
	})
}

// memoryOf reads a line of /proc/PID/status, in KiB.
func memoryOf(t *testing.T, pid int, name string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s of process %d", name, pid)
	return 0
}
