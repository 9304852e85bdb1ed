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

	"github.com/lull/lull/agent/lib/dialer"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/lib/runctl"
)

// why puts the words of the marker into a sentence.
func why(instance, word string) string {
	switch word {
	case runctl.RefreshPending:
		return errkind.Text("%s waits: a refresh is pending, and policy starts nothing new until it is done", instance)
	case runctl.RefreshStarting:
		return errkind.Text("%s waits: it has been refreshed and is being checked", instance)
	}
	return errkind.Text("%s waits: it is being refreshed", instance)
}

func (l *launch) sayWaiting(word string) { l.say(journal.PriInfo, why(l.Instance, word), "") }

func (l *launch) sayUntracked(err error) {
	l.say(journal.PriWarning, errkind.Text("%s runs untracked, as policy allows: %v", l.Instance, err), messages.Untracked)
}

// noteElsewhere notes in the journal why the launch stays where it is: nothing is wrong
// with it for the person who launches.
func (l *launch) noteElsewhere(err error) {
	// Without any log there is no place for it.
	_ = l.note(journal.PriInfo, fmt.Sprintf("%s runs without a run of its own: %v", l.Instance, err), "")
}

// say prints a message on the terminal, if there is one, in the language of its user, and
// always writes it to the journal in English; without a journal to the system log, without either to the
// standard error.
func (l *launch) say(priority journal.Priority, text string, id messages.ID) {
	terminal := isTerminal(l.Stderr)
	if terminal {
		fmt.Fprintf(l.Stderr, "lull: %s\n", printable.Line(translated(text)))
	}
	if err := l.note(priority, printable.Line(text), id); err != nil && !terminal && l.Stderr != nil {
		fmt.Fprintf(l.Stderr, "lull: %s\n", printable.Line(translated(text)))
	}
}

// note writes to the journal; without one, to the system log.
func (l *launch) note(priority journal.Priority, text string, id messages.ID) error {
	fields := map[string]string{"SYSLOG_IDENTIFIER": "lull-run", "LULL_INSTANCE": l.Instance}
	if id != "" {
		fields["MESSAGE_ID"] = string(id)
	}
	err := journal.Send(text, priority, fields)
	if err != nil {
		err = syslog("/dev/log", int(priority), text)
	}
	return err
}

const (
	helperName  = "org.lull.Session1"
	helperPath  = dbus.ObjectPath("/org/lull/Session1")
	launchWaits = "org.lull.Session1.LaunchWaits"
	incomplete  = "org.lull.Session1.DataIncomplete"

	// desktopAfter is how long a launch waits before the desktop shows that it
	// waits. A shorter wait is not shown.
	desktopAfter = 300 * time.Millisecond
)

// tellDesktop has the helper of the session show that the launch waits, from a
// moment later until the returned function is called or this process ends: the
// helper watches the connection. Without a helper or a session nothing is
// shown.
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
		if conn.Object(helperName, helperPath).CallWithContext(ctx, launchWaits, autoStart(), l.Instance, word).Err != nil {
			return
		}
		<-ctx.Done()
	}()
	return func() {
		cancel()
		<-over
	}
}

// showMissing has the helper of the session show that the copy of the data
// lacks files. The helper checks its caller, so this process waits for the
// answer.
func (l *launch) showMissing(ctx context.Context, count int, first, directory string) {
	ctx, cancel := context.WithTimeout(ctx, desktopPatience)
	defer cancel()
	conn, err := dialer.Open("session", false, dialer.None, dbus.WithContext(ctx))
	if err != nil {
		return
	}
	defer conn.Close()
	call := conn.Object(helperName, helperPath).CallWithContext(ctx, incomplete, autoStart(), l.Instance, l.title, uint32(count), first, directory)
	if call.Err != nil {
		_ = l.note(journal.PriInfo, fmt.Sprintf("the desktop cannot show that data of %s is missing: %v", l.Instance, call.Err), "")
	}
}

// desktopPatience bounds how long such a launch waits for the helper, which the bus may
// have to start.
const desktopPatience = 5 * time.Second

// autoStart is the flag of a call to the helper: where there is a screen, the bus may
// start it.
func autoStart() dbus.Flags {
	if os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" {
		return 0
	}
	return dbus.FlagNoAutoStart
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
