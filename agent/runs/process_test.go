package runs

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Processes that have ended since the runs were read, and others with a reused PID, are not
// named.
func TestStillThere(t *testing.T) {
	start := func() *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	uid := uint32(os.Getuid())
	lives, gone, zombie := start(), start(), start()
	t.Cleanup(func() {
		lives.Process.Kill()
		lives.Wait()
		zombie.Wait()
	})
	gone.Process.Kill()
	gone.Wait()
	zombie.Process.Kill()
	hidden := Process{UID: uid, Command: "elsewhere"} // in an invisible PID namespace
	list := []Process{{PID: lives.Process.Pid, UID: uid}, {PID: gone.Process.Pid, UID: uid}, {PID: zombie.Process.Pid, UID: uid},
		{PID: lives.Process.Pid, UID: uid + 1}, hidden}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		got := StillThere(list)
		if len(got) == 2 && got[0] == list[0] && got[1] == hidden {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after 20 s: got %+v, want %+v and %+v alone", got, list[0], hidden)
		}
	}
}
