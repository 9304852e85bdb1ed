package launch

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/messages"
	"github.com/lull/lull/agent/runctl"
	"github.com/lull/lull/dbus/dialer"
)

// why puts the words of the marker into a sentence.
func why(instance, word string) string {
	switch word {
	case runctl.RefreshPending:
		return fmt.Sprintf("%s waits: a refresh is pending, and policy starts nothing new until it is done", instance)
	case runctl.RefreshStarting:
		return fmt.Sprintf("%s waits: it has been refreshed and is being checked", instance)
	}
	return fmt.Sprintf("%s waits: it is being refreshed", instance)
}

func (l *launch) sayWaiting(word string) { l.say(journal.PriInfo, why(l.Instance, word), "") }

func (l *launch) sayUntracked(err error) {
	l.say(journal.PriWarning, fmt.Sprintf("%s runs untracked, as policy allows: %v", l.Instance, err), messages.Untracked)
}

// say tells the person at the terminal, if there is one, and always the journal;
// without a journal the system log, without either the standard error.
func (l *launch) say(priority journal.Priority, text string, id messages.ID) {
	terminal := isTerminal(l.Stderr)
	if terminal {
		fmt.Fprintf(l.Stderr, "lull: %s\n", text)
	}
	fields := map[string]string{"SYSLOG_IDENTIFIER": "lull-run", "LULL_INSTANCE": l.Instance}
	if id != "" {
		fields["MESSAGE_ID"] = string(id)
	}
	err := journal.Send(text, priority, fields)
	if err != nil {
		err = syslog("/dev/log", int(priority), text)
	}
	if err != nil && !terminal && l.Stderr != nil {
		fmt.Fprintf(l.Stderr, "lull: %s\n", text)
	}
}

const (
	helperName  = "org.lull.Session1"
	helperPath  = dbus.ObjectPath("/org/lull/Session1")
	launchWaits = "org.lull.Session1.LaunchWaits"

	// desktopAfter is how long a launch waits before the desktop shows that it
	// does: what is over at once is nothing to tell of.
	desktopAfter = 300 * time.Millisecond
)

// tellDesktop has the helper of the session show that the launch waits, from soon
// until what it returns is called, or this process ends, whatever comes first: the
// helper watches the connection. Without a helper or a session nobody is told there.
func (l *launch) tellDesktop(ctx context.Context, word string) (stop func()) {
	if l.Service != "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-ctx.Done():
			return
		case <-time.After(desktopAfter):
		}
		conn, err := dialer.Open("session", false, dialer.None, dbus.WithContext(ctx))
		if err != nil {
			return
		}
		defer conn.Close()
		flags := dbus.FlagNoAutoStart
		if os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" {
			flags = 0 // somebody looks: the bus may start the helper
		}
		if conn.Object(helperName, helperPath).CallWithContext(ctx, launchWaits, flags, l.Instance, word).Err != nil {
			return
		}
		<-ctx.Done()
	}()
	return func() {
		cancel()
		<-over
	}
}

// syslog writes a line as syslog(3) does, facility "user".
func syslog(socket string, priority int, text string) error {
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second)) // a log that is stuck is no reason to be
	_, err = fmt.Fprintf(conn, "<%d>%s lull-run[%d]: %s", 1<<3|priority, time.Now().Format(time.Stamp), os.Getpid(), text)
	return err
}

func isTerminal(f *os.File) bool {
	if f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
