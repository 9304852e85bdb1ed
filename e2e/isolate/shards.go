package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

// shard is set in the environment of each of the processes that Shards starts: I/N.
const shard = "LULL_TEST_SHARD"

// Shards runs the tests of a package in n processes side by side, each without
// the tests that are not for its Shard, and returns the exit status of the
// test binary. It is for packages that wait most of the time and cannot have
// two tests in one hierarchy. Where packages take turns (see Main) there is
// one process.
func Shards(n int, run func() int) int {
	if os.Getenv(shard) != "" || os.Geteuid() != 0 || booted() {
		return run()
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot start the tests:", err)
		return 1
	}
	runtime.LockOSThread() // the death signal of the children is that of the thread which started them
	var cmds []*exec.Cmd
	for i := range n {
		cmd := exec.Command(self, os.Args[1:]...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d/%d", shard, i, n))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if i > 0 { // go test reads one list of what the tests have used
			cmd.Args = withoutLog(cmd.Args)
		}
		cmds = append(cmds, cmd)
	}
	code := 0
	end := pass(cmds)
	defer end()
	for _, cmd := range cmds {
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "cannot start the tests:", err)
			code = 1
		}
	}
	for _, cmd := range cmds {
		if cmd.Process == nil {
			continue
		}
		c, err := status(cmd.Wait())
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot run the tests:", err)
		}
		code = max(code, c)
	}
	return code
}

// Shard returns which of how many processes of Shards this one is; 0 of 1 where there
// is one process.
func Shard() (i, n int) {
	if _, err := fmt.Sscanf(os.Getenv(shard), "%d/%d", &i, &n); err != nil {
		return 0, 1
	}
	return i, n
}

func withoutLog(args []string) (rest []string) {
	for _, a := range args {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			rest = append(rest, a)
		}
	}
	return rest
}

// booted reports whether systemd manages the cgroups: sd_booted(3).
func booted() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// pass passes signals that end a program on to processes until end is called.
func pass(cmds []*exec.Cmd) (end func()) {
	signals, passed := make(chan os.Signal, 4), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		defer close(passed)
		for s := range signals {
			for _, cmd := range cmds {
				if s != os.Interrupt && cmd.Process != nil { // an interrupt the terminal has sent to all
					cmd.Process.Signal(s)
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-passed
	}
}

// status returns the exit status of a process that was waited for.
func status(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), nil
	}
	return 1, err
}
