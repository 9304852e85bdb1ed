package desktops_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig/suite"
)

// subject is a program that openers open: the application that lull has installed, or
// its twin, the same program without lull.
type subject struct {
	id      string // of its menu entry; that of its second program, on the bus, has ".Bells" behind it
	entries string // the directory of menu entries
	command string
}

var (
	ours = subject{id: app, entries: "/var/lib/lull/exports/share/applications", command: "/var/lib/lull/exports/bin/" + app}
	twin = subject{id: "org.lull.twin", entries: "/usr/share/applications", command: programDir + "/marks"}
)

func (s subject) entry() string { return filepath.Join(s.entries, s.id+".desktop") }
func (s subject) bells() string { return s.id + ".Bells" }

// A document of the subject's has a type that it alone opens.
func (s subject) document() string { return "/home/" + suite.Tester + "/letter." + s.id }
func (s subject) mimeType() string { return "application/x-" + s.id }
func (s subject) typeFile() string {
	return `<?xml version="1.0"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info"><mime-type type="` + s.mimeType() + `"><comment>Letter</comment><glob pattern="*.` + s.id + `"/></mime-type></mime-info>
`
}

func (s subject) autorun() string { return "app-" + s.id + "@autostart.service" }

// entryText is a menu entry of Marks or, with name Bells, of the program on the bus.
func entryText(name, exec string, more ...string) string {
	return "[Desktop Entry]\nType=Application\nName=" + name + "\nComment=Tells when it starts\nExec=" + exec + "\nIcon=accessories-text-editor\nCategories=Utility;\n" +
		strings.Join(more, "")
}

// serviceText is a D-Bus service file.
func serviceText(name, exec string) string {
	return "[D-BUS Service]\nName=" + name + "\nExec=" + exec + "\n"
}

// installTwin puts the twin's files where a package of the distribution has them.
func installTwin(t *testing.T) {
	t.Helper()
	for path, text := range map[string]string{
		twin.entry(): entryText("Double", twin.command+" %F", "MimeType="+twin.mimeType()+";\n"),
		"/usr/share/mime/packages/" + twin.id + ".xml":                   twin.typeFile(),
		filepath.Join(twin.entries, twin.bells()+".desktop"):             entryText("Gong", twin.command+" --bus "+twin.bells(), "DBusActivatable=true\n"),
		"/usr/share/dbus-1/services/" + twin.bells() + ".service":        serviceText(twin.bells(), twin.command+" --bus "+twin.bells()),
		filepath.Join("/etc/xdg/autostart", filepath.Base(twin.entry())): entryText("Double", twin.command),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, argv := range [][]string{{"update-mime-database", "/usr/share/mime"}, {"update-desktop-database", twin.entries}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	for _, s := range []subject{ours, twin} {
		if out, err := asUser("sh", "-c", "echo Dear >"+s.document()).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// opener is a way of users and desktops to start applications.
type opener struct {
	name string
	open func(subject)
	// stays means that what starts it gives it a unit of its own, where it has to be with
	// lull as without.
	stays bool
}

// openersEnv has the names of the openers that open the application repeatedly, separated
// by commas, where not all of them are to.
const openersEnv = "LULL_OPENERS"

// chosen are the openers that the caller has asked for.
func chosen(t *testing.T, all []opener) (some []opener) {
	t.Helper()
	names := os.Getenv(openersEnv)
	if names == "" {
		return all
	}
	for _, name := range strings.Split(names, ",") {
		i := slices.IndexFunc(all, func(o opener) bool { return o.name == name })
		if i < 0 {
			t.Fatalf("%s: there is no opener %q", openersEnv, name)
		}
		some = append(some, all[i])
	}
	return some
}

// fill puts what belongs to the subject into the words of a command.
func (s subject) fill(text string) string {
	return strings.NewReplacer("ENTRY", s.entry(), "AUTORUN", s.autorun(), "DOCUMENT", s.document(), "COMMAND", s.command, "ID", s.id).Replace(text)
}

// command returns an opener that runs a command as the user.
func command(t *testing.T, name string, stays bool, argv ...string) opener {
	return opener{name: name, stays: stays, open: func(s subject) {
		t.Helper()
		mine := make([]string, len(argv))
		for i, arg := range argv {
			mine[i] = s.fill(arg)
		}
		if out, err := asUser(mine...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", mine, err, out)
		}
	}}
}

// opener returns one that is a line typed at the terminal.
func (term *terminal) opener(name string, stays bool, line string) opener {
	return opener{name: name, stays: stays, open: func(s subject) { term.send(s.fill(line) + "\n") }}
}

// everywhere are the openers that need no desktop. KDE's are among them where KDE's tools are.
func everywhere(t *testing.T, conn *dbus.Conn, term *terminal) []opener {
	t.Helper()
	// The bus and the manager read what is new.
	if err := conn.BusObject().Call("org.freedesktop.DBus.ReloadConfig", 0).Err; err != nil {
		t.Fatal(err)
	}
	if out, err := asUser("systemctl", "--user", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := []opener{
		term.opener("gtk-launch", true, "gtk-launch ID"),
		term.opener("gio launch", true, "gio launch ENTRY"),
		term.opener("gio open", true, "gio open DOCUMENT"), // as a double click in Nautilus
		{name: "D-Bus activation", open: func(s subject) {
			t.Helper()
			if err := conn.BusObject().Call("org.freedesktop.DBus.StartServiceByName", 0, s.bells(), uint32(0)).Err; err != nil {
				t.Fatal(err)
			}
		}},
		term.opener("gapplication launch", false, "gapplication launch ID.Bells"),
		// Restarted, because the one before may be on its way out.
		command(t, "autostart", true, "systemctl", "--user", "restart", "AUTORUN"),
		term.opener("terminal", false, "COMMAND"),
		term.opener("terminal, background", false, "COMMAND &"),
		command(t, "systemd-run", true, "systemd-run", "--user", "--quiet", "--collect", "COMMAND"),
		term.opener("systemd-run --scope", true, "systemd-run --user --scope --quiet --collect COMMAND"),
	}
	if _, err := exec.LookPath("kioclient"); err == nil {
		list = append(list, term.opener("KIO", true, "kioclient exec ENTRY"))
	}
	return list
}

// terminal is an interactive shell of the user's at a terminal.
type terminal struct {
	t     *testing.T
	shell int // its PID
	in    interface{ Write([]byte) (int, error) }
	out   chan string // what it prints, in pieces
	seen  string      // since the last find
}

// openTerminal starts one, until the end of the test.
func openTerminal(t *testing.T) *terminal {
	t.Helper()
	const unit = "test-terminal.service"
	// A shell at a terminal ignores SIGTERM, and ends with SIGHUP.
	cmd := asUser("systemd-run", "--user", "--quiet", "--collect", "--slice=app.slice", "--pty", "--unit="+unit, "--property=SendSIGHUP=yes",
		"--setenv=PS1=$ ", "--setenv=TERM=dumb", "--working-directory=/home/"+suite.Tester, "bash", "--norc", "--noprofile", "-i")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, in: in, out: make(chan string, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 4096); ; {
			n, err := out.Read(b)
			if n > 0 {
				select {
				case term.out <- string(b[:n]):
				default: // nothing asks for it
				}
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		asUser("systemctl", "--user", "stop", unit).Run()
		in.Close()
		<-done
		cmd.Wait()
	})
	term.send("echo pid=$$\n")
	term.find("pid=%d\r\n", &term.shell)
	return term
}

// send types.
func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := term.in.Write([]byte(text)); err != nil {
		term.t.Fatal(err)
	}
}

// find waits until the terminal has printed text of this format; the part
// before the first % is searched for.
func (term *terminal) find(format string, into ...any) {
	term.t.Helper()
	start, _, _ := strings.Cut(format, "%")
	for end := time.After(patience); ; {
		for rest := term.seen; ; {
			at := strings.Index(rest, start)
			if at < 0 || !strings.Contains(rest[at:], "\n") {
				break
			}
			rest = rest[at:]
			line, _, _ := strings.Cut(rest, "\n")
			if n, err := fmt.Sscanf(line+"\n", format, into...); err == nil && n == len(into) {
				term.seen = ""
				return
			}
			rest = rest[len(start):]
		}
		select {
		case text := <-term.out:
			term.seen += text
		case <-end:
			term.t.Fatalf("the terminal does not print %q: %q", format, term.seen)
		}
	}
}

// rest returns what the terminal has printed since the last find.
func (term *terminal) rest() string {
	for {
		select {
		case text := <-term.out:
			term.seen += text
		default:
			return term.seen[max(0, len(term.seen)-4096):]
		}
	}
}

// status returns $? of the last command.
func (term *terminal) status() (n int) {
	term.t.Helper()
	term.send("echo status=$?\n")
	term.find("status=%d\r\n", &n)
	return n
}
