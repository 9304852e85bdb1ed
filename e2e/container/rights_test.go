package container_test

import (
	"bufio"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/rig"
)

// clientEnv has this test's binary be the client of one user: see client.
const clientEnv = "LULL_RIGHTS_REFRESH"

const (
	agentName   = "org.lull.Agent1"
	agentObject = dbus.ObjectPath("/org/lull/Agent1")
	noted       = "org.lull.noted" // the package that is installed
)

// right is a row of docs/rights.md.
type right struct {
	label, method string
	want          map[string]string // by the column
}

// subjects are its columns.
var subjects = []string{"root", "active", "inactive", "remote"}

func rights() (rows []right, err error) {
	b, err := os.ReadFile(filepath.Join(rig.Module(), "docs", "rights.md"))
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3+len(subjects) || !strings.Contains(cells[0], ".") {
			continue
		}
		r := right{label: strings.TrimSpace(cells[0]), want: map[string]string{}}
		r.method, _, _ = strings.Cut(r.label, ",")
		for i, who := range subjects {
			r.want[who] = strings.TrimSpace(cells[2+i])
		}
		rows = append(rows, r)
	}
	return rows, err
}

// described is the agent's interface as its XML has it.
type described struct {
	methods    map[string][]string // types of what goes in, by Interface.Method
	properties []string            // INTERFACE PROPERTY
}

func describe() (d described, err error) {
	var file struct {
		Interfaces []struct {
			Name    string `xml:"name,attr"`
			Methods []struct {
				Name string `xml:"name,attr"`
				Args []struct {
					Type      string `xml:"type,attr"`
					Direction string `xml:"direction,attr"`
				} `xml:"arg"`
			} `xml:"method"`
			Properties []struct {
				Name string `xml:"name,attr"`
			} `xml:"property"`
		} `xml:"interface"`
	}
	b, err := os.ReadFile(filepath.Join(rig.Module(), "dbus", "org.lull.Agent1.xml"))
	if err == nil {
		err = xml.Unmarshal(b, &file)
	}
	d.methods = map[string][]string{}
	for _, i := range file.Interfaces {
		short := strings.TrimPrefix(i.Name, agentName+".")
		for _, m := range i.Methods {
			types := []string{}
			for _, a := range m.Args {
				if a.Direction == "in" {
					types = append(types, a.Type)
				}
			}
			d.methods[short+"."+m.Name] = types
		}
		for _, p := range i.Properties {
			d.properties = append(d.properties, i.Name+" "+p.Name)
		}
	}
	return d, err
}

// nothing is a value of each type that the agent takes.
var nothing = map[string]any{"s": "", "t": uint64(0), "as": []string{}, "ay": []byte{}, "a{sv}": map[string]dbus.Variant{},
	"a(sbbbbb)": []struct {
		ID                                             string
		Active, Locked, Idle, DoNotDisturb, LoggingOut bool
	}{}}

// special are the arguments of rows that need some to have an effect. Other
// allowed calls end in another error, or do no harm.
var special = map[string][]any{
	"Manager.Hold": {noted, uint64(0), "for a test"},
	"Manager.Hold, beyond user-hold of the policy": {noted, uint64(time.Now().Add(300 * 24 * time.Hour).UnixMicro()), "for long"},
	"Manager.Unhold, one's own":                    {noted},
	"Manager.Unhold, of others":                    {noted},
	"Manager.Revert":                               {noted, map[string]dbus.Variant{}},
	"Manager.Refresh, side-by-side":                {[]string{noted}, map[string]dbus.Variant{"side-by-side": dbus.MakeVariant(true)}},
	"Manager.Refresh, now":                         {[]string{noted}, map[string]dbus.Variant{"now": dbus.MakeVariant(true)}},
	"Manager.RefreshEach, now":                     {[]string{}, map[string]dbus.Variant{"now": dbus.MakeVariant(true)}},
	"Manager.ListAvailable, read":                  {map[string]dbus.Variant{"read": dbus.MakeVariant(true)}},
	"Manager.ListUpdates, read":                    {[]string{}, map[string]dbus.Variant{"read": dbus.MakeVariant(true)}},
	"Space.Collect, retain-nothing":                {map[string]dbus.Variant{"retain-nothing": dbus.MakeVariant(true)}},
	"Space.StartCollect, retain-nothing":           {map[string]dbus.Variant{"retain-nothing": dbus.MakeVariant(true)}},
}

const refused = "refused"

// verdict returns the result of a call: refused for want of rights, or not.
// Allowed calls may fail.
func verdict(err error) string {
	var e dbus.Error
	if !errors.As(err, &e) {
		return "yes"
	}
	switch {
	case e.Name == "org.lull.Error.NotPermitted" && strings.Contains(err.Error(), "it needs a password"):
		return "password"
	case e.Name == "org.lull.Error.NotPermitted", e.Name == "org.freedesktop.DBus.Error.AccessDenied":
		return refused
	case strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error."):
		return e.Name + ": " + err.Error() // it was not heard at all
	}
	return "yes"
}

// client is what one user does on request: all of the table, and what must not
// be possible. It prints a line for each, its label and its verdict. On a
// second request, the name of its session, it makes a call that takes a
// password.
func client() {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		fmt.Println("error\t" + err.Error())
		return
	}
	if err := act(in, os.Stdout); err != nil {
		fmt.Println("error\t" + err.Error())
	}
}

func act(in *bufio.Reader, out io.Writer) error {
	rows, err := rights()
	if err != nil {
		return err
	}
	d, err := describe()
	if err != nil {
		return err
	}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, r := range rows {
		args, ok := special[r.label]
		if !ok {
			for _, t := range d.methods[r.method] {
				if nothing[t] == nil {
					return fmt.Errorf("%s takes %s: what is nothing of that?", r.method, t)
				}
				args = append(args, nothing[t])
			}
		}
		path := agentObject
		if strings.HasPrefix(r.method, "Refresh.") {
			path = dbus.ObjectPath(os.Getenv(clientEnv))
		}
		if strings.HasPrefix(r.method, "UpdateMonitor.") {
			path = "/org/lull/update_monitor/nobody/s" // who is no run has none
		}
		if strings.HasPrefix(r.method, "Job.") {
			path = bus.JobPath("none") // those of others are tested where there are some
		}
		call := conn.Object(agentName, path).Call(agentName+"."+r.method, 0, args...)
		said := verdict(call.Err)
		own := strings.HasPrefix(r.method, "UpdateMonitor.") || strings.HasPrefix(r.method, "Job.")
		if own && strings.HasPrefix(said, "org.freedesktop.DBus.Error.Unknown") {
			said = "yes"
		}
		fmt.Fprintf(out, "%s\t%s\n", r.label, said)
	}
	denied := func(what string, err error) {
		said := "allowed"
		if err != nil {
			said = refused
		}
		fmt.Fprintf(out, "%s\t%s\n", what, said)
	}
	for _, p := range d.properties {
		iface, name, _ := strings.Cut(p, " ")
		denied("set "+p, conn.Object(agentName, agentObject).Call("org.freedesktop.DBus.Properties.Set", 0, iface, name, dbus.MakeVariant("x")).Err)
	}
	denied("call what is not there", conn.Object(agentName, agentObject).Call(agentName+".Manager.Become", 0).Err)
	denied("pass a descriptor", conn.Object(agentName, agentObject).Call(agentName+".Manager.Open", 0, noted, dbus.UnixFD(0)).Err)
	reply, err := conn.RequestName("org.lull.Agent1.Mine", 0)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("reply %d", reply)
	}
	denied("take a name of the agent's", err)
	_, err = conn.RequestName(agentName, dbus.NameFlagReplaceExisting|dbus.NameFlagAllowReplacement)
	denied("take the agent's name", err)
	for _, dir := range []string{"/var/lib/lull", "/var/lib/lull/current", "/var/lib/lull/packages", "/var/lib/lull/exports/bin", "/run/lull", "/run/lull/runctl", "/etc/lull"} {
		denied("write in "+dir, unix.Access(dir, unix.W_OK))
	}
	_, err = os.ReadFile("/var/lib/lull/state.db")
	denied("read state.db", err)
	fmt.Fprintln(out, tableEnds)
	session, err := in.ReadString('\n')
	if err != nil {
		return nil
	}
	if err := sit(conn, strings.TrimSpace(session), typist{in, out}); err != nil {
		return err
	}
	// As lull calls: it may be asked.
	_, _, _, err = bus.NewSpaceProxy(conn, agentObject).Collect(context.Background(), bus.CollectOptions{})
	fmt.Fprintf(out, "%s\t%v\n", asked, err)
	return nil
}

const (
	tableEnds = "end of the table"
	asked     = "Space.Collect" // with a password
)

// typist is an agent of polkit's in the session of a client, with a user who
// has the password: the test, because only root can report that to polkit.
// Agents use polkit's setuid helper for that.
type typist struct {
	in  *bufio.Reader
	out io.Writer
}

type identity struct {
	Kind    string
	Details map[string]dbus.Variant
}

// BeginAuthentication is polkit's question.
func (p typist) BeginAuthentication(_, message, _ string, _ map[string]string, cookie string, _ []identity) *dbus.Error {
	fmt.Fprintf(p.out, "%s\t%s\n", message, cookie)
	if _, err := p.in.ReadString('\n'); err != nil { // until it is typed
		return dbus.MakeFailedError(err)
	}
	return nil
}

// CancelAuthentication is polkit's, too.
func (typist) CancelAuthentication(string) *dbus.Error { return nil }

const polkitName = "org.freedesktop.PolicyKit1"

// polkit is its authority.
func polkit(conn *dbus.Conn) dbus.BusObject {
	return conn.Object(polkitName, "/org/freedesktop/PolicyKit1/Authority")
}

// sit registers a typist, for the session that this process is in.
func sit(conn *dbus.Conn, session string, p typist) error {
	if err := conn.Export(p, "/typist", polkitName+".AuthenticationAgent"); err != nil {
		return err
	}
	subject := identity{"unix-session", map[string]dbus.Variant{"session-id": dbus.MakeVariant(session)}}
	return polkit(conn).Call(polkitName+".Authority.RegisterAuthenticationAgent", 0, subject, "de_DE.UTF-8", "/typist").Err
}

// typed reports to polkit, as root, that the administrator has typed the password.
func typed(conn *dbus.Conn, uid uint32, cookie string) error {
	root := identity{"unix-user", map[string]dbus.Variant{"uid": dbus.MakeVariant(uint32(0))}}
	return polkit(conn).Call(polkitName+".Authority.AuthenticationAgentResponse2", 0, uid, cookie, root).Err
}

// session makes a session of logind's around a process, as a display manager or
// sshd does, and ends it when the test does.
func session(t *testing.T, logind dbus.BusObject, uid uint32, pid int, seat, kind, host string) (id string) {
	t.Helper()
	type property struct {
		Name  string
		Value dbus.Variant
	}
	call := logind.Call("org.freedesktop.login1.Manager.CreateSession", 0, uid, uint32(pid), "login", kind, "user", "", seat, uint32(0), "", "",
		host != "", "", host, []property{})
	if call.Err != nil {
		t.Fatalf("cannot make a session: %v", call.Err)
	}
	fifo := call.Body[3].(dbus.UnixFD)
	t.Cleanup(func() { unix.Close(int(fifo)) })
	return call.Body[0].(string)
}

// TestRights plays docs/rights.md against the real polkitd.
func TestRights(t *testing.T) {
	here(t)
	installed(t)
	rows, err := rights()
	if err != nil {
		t.Fatal(err)
	}
	d, err := describe()
	if err != nil {
		t.Fatal(err)
	}
	for m := range d.methods {
		if !slices.ContainsFunc(rows, func(r right) bool { return r.method == m }) {
			t.Errorf("%s has no row in docs/rights.md", m)
		}
	}

	dir := t.TempDir()
	sh(t, "mkdir %[1]s/app && printf 'name: %[2]s\\nversion: \"1\"\\nsummary: is tested\\n' > %[1]s/app/lull.yaml && touch %[1]s/app/file", dir, noted)
	sh(t, "lull repo init /srv/rights && lull publish --repo /srv/rights %s/app && lull repo add rights /srv/rights && lull install %s && lull hold %[2]s", dir, noted)
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := conn.Object(agentName, agentObject).Call("org.freedesktop.DBus.ObjectManager.GetManagedObjects", 0).Store(&objects); err != nil {
		t.Fatal(err)
	}
	var refresh dbus.ObjectPath
	for path, o := range objects {
		if o[agentName+".Refresh"] != nil {
			refresh = path
		}
	}
	if refresh == "" {
		t.Fatal("the installation has left no object")
	}

	// Of two on a seat the one that came last is active.
	logind := conn.Object("org.freedesktop.login1", "/org/freedesktop/login1")
	active := "" // the session
	clients := map[string]func() map[string]string{}
	for i, who := range []string{"inactive", "active", "remote", "root"} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), clientEnv+"="+string(refresh))
		cmd.Stderr = os.Stderr
		uid := uint32(3000 + i)
		if who != "root" {
			sh(t, "useradd --create-home --uid=%d lull-%s", uid, who)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		switch who {
		case "inactive", "active":
			active = session(t, logind, uid, cmd.Process.Pid, "seat0", "wayland", "")
		case "remote":
			session(t, logind, uid, cmd.Process.Pid, "", "tty", "198.51.100.7")
		}
		clients[who] = func() map[string]string {
			fmt.Fprintln(stdin, "go")
			got := map[string]string{}
			lines := bufio.NewScanner(stdout)
			for lines.Scan() && lines.Text() != tableEnds {
				label, said, _ := strings.Cut(lines.Text(), "\t")
				got[label] = said
			}
			if who != "active" {
				stdin.Close()
				return got
			}
			fmt.Fprintln(stdin, active)
			lines.Scan()
			message, cookie, _ := strings.Cut(lines.Text(), "\t")
			if message != "Zum Aufräumen oder Prüfen des Bestands an Anwendungen ist eine Legitimierung erforderlich" {
				t.Errorf("polkit asks: got %q, want message %q", lines.Text(), "Zum Aufräumen oder Prüfen des Bestands an Anwendungen ist eine Legitimierung erforderlich")
			}
			if err := typed(conn, uid, cookie); err != nil {
				t.Error(err)
			}
			fmt.Fprintln(stdin, "typed")
			if !lines.Scan() || lines.Text() != asked+"\t<nil>" {
				t.Errorf("with a password: got %q, want %q", lines.Text(), asked+"\t<nil>")
			}
			return got
		}
	}
	t.Logf("sessions:\n%s", sh(t, "loginctl --no-legend list-sessions"))
	for _, who := range []string{"inactive", "active", "remote", "root"} { // root last: it ends the holds of all
		compare(t, who, rows, clients[who]())
	}
}

// compare checks the output of a user's client.
func compare(t *testing.T, who string, rows []right, got map[string]string) {
	t.Helper()
	if got["error"] != "" {
		t.Fatalf("the client of %s failed: got %q, want no error", who, got["error"])
	}
	for _, r := range rows {
		said := got[r.label]
		// The text of some refusals is about the matter, not about the password.
		if said == refused && r.want[who] == "password" && strings.Contains(r.label, ",") {
			said = "password"
		}
		if said != r.want[who] {
			t.Errorf("%s, %s: %q, want %q", who, r.label, said, r.want[who])
		}
		delete(got, r.label)
	}
	if who == "root" {
		return
	}
	if len(got) < 50 {
		t.Errorf("%s has tried %d other things, want at least 50: %v", who, len(got), got)
	}
	for what, said := range got {
		if said != refused {
			t.Errorf("%s, %s: %s, want %v", who, what, said, refused)
		}
	}
}
