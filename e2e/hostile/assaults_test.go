package hostile_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	bus "github.com/lull/lull/dbus"
)

// Where TestHardening puts things in its container.
const (
	systemBus  = "unix:path=/run/dbus/system_bus_socket"
	target     = "serv"           // the package that others refresh meanwhile
	used       = "notes"          // the package whose application another user starts
	slowSite   = "/srv/slow"      // what the slow repository is made of
	slowSwitch = "/srv/slow.drip" // while it exists, that repository drips
)

// arena is what an assault has while it lasts.
type arena struct {
	aimed    bool            // at lull; else the same load somewhere else
	together bool            // with other assaults, behind whose calls its own wait
	over     <-chan struct{} // closed to end it
	ready    func()          // reports that the load is there, once
}

// pick returns the first where the assault is aimed at lull, the second elsewhere.
func pick[T any](a *arena, aimed, elsewhere T) T {
	if a.aimed {
		return aimed
	}
	return elsewhere
}

func (a *arena) ended() bool {
	select {
	case <-a.over:
		return true
	default:
		return false
	}
}

// hold reports that the load is there, and keeps it until the end.
func (a *arena) hold() {
	a.ready()
	<-a.over
}

// assaults are the actions of one user, in a session of the user. Each returns its
// result, when it is over and has released everything.
var assaults = map[string]func(a *arena) string{
	"deep slices": func(a *arena) string {
		name := strings.Repeat("a", 240) + pick(a, ".slice", ".other")
		depth := 0
		must(os.Chdir(managerGroup()))
		for ; depth < 18; depth++ {
			must(os.Mkdir(name, 0o755))
			must(os.Chdir(name))
		}
		a.hold()
		for ; depth > 0; depth-- {
			must(os.Chdir(".."))
			must(unix.Rmdir(name))
		}
		return "18 slices, one in the other"
	},
	"many slices": func(a *arena) string { return slicesBeside(a, 6000) },
	"a flood of slices": func(a *arena) string {
		return slicesBeside(a, 20000)
	},
	"restless groups": func(a *arena) string {
		name := filepath.Join(managerGroup(), pick(a, "app-lull-notes-0123456789abcdef01234567.scope", "app-else-notes-0123456789abcdef01234567.scope"))
		a.ready()
		n := 0
		for ; !a.ended(); n++ {
			must(os.Mkdir(name, 0o755))
			must(unix.Rmdir(name))
		}
		return count(n, "groups came and went")
	},
	"the name of a service": func(a *arena) string {
		unit := pick(a, "lull-serv-daemon.service", "else-serv-daemon.service")
		said(exec.Command("systemd-run", "--user", "--quiet", "--unit="+unit, "sleep", "infinity"))
		a.hold()
		said(exec.Command("systemctl", "--user", "stop", unit))
		return "the unit runs below the user's own manager"
	},
	"leases": func(a *arena) string {
		conn := dial()
		n := 0
		if a.together {
			a.ready()
		}
		// Together with others it goes on until it is refused: their calls share its queue.
		var refused tallies
		for a.aimed && (a.together || !a.ended()) {
			var dir, lease dbus.UnixFD
			var hash string
			err := conn.Object(bus.AgentName, bus.AgentPath).Call(bus.ManagerInterface+".Open", 0, used).Store(&dir, &lease, &hash)
			if err != nil {
				refused.note(err)
				break
			}
			n++
			syscall.Close(int(dir))
		}
		return count(n, "leases, then ") + cmp.Or(calls(a, conn, bus.ManagerInterface+".Open", used), refused.String())
	},
	"helpers": func(a *arena) string {
		return calls(a, dial(), bus.ManagerInterface+".RegisterHelper", map[string]dbus.Variant{})
	},
	"long texts": func(a *arena) string {
		return calls(a, dial(), bus.ManagerInterface+".Why", strings.Repeat("x", 60<<10))
	},
	"calls without a reply": func(a *arena) string {
		conn := dial()
		n := 0
		send := func() {
			for range 700 {
				for _, m := range []string{bus.ManagerInterface + ".Inspect", bus.SpaceInterface + ".Plan", bus.ManagerInterface + ".Doctor"} {
					object, method, args := place(a, m, nil)
					conn.Object(object.name, object.path).Go(method, dbus.FlagNoReplyExpected, nil, args...)
					n++
				}
			}
		}
		send()
		a.ready()
		for {
			select {
			case <-a.over:
				return count(n, "calls")
			case <-time.After(2 * time.Second):
				send()
			}
		}
	},
	"connections": func(a *arena) string {
		var wg sync.WaitGroup
		var ends tallies
		n := 0
		for ; n < 200; n++ { // a user has 256, and the session needs some
			conn, err := dbus.Connect(systemBus)
			if err != nil {
				break
			}
			wg.Go(func() {
				for !a.ended() {
					object, method, args := place(a, bus.ManagerInterface+".Pending", nil)
					ends.note(conn.Object(object.name, object.path).Call(method, 0, args...).Err)
				}
				conn.Close()
			})
		}
		a.ready()
		wg.Wait()
		return count(n, "connections: ") + ends.String()
	},
	"a confined service": func(a *arena) string {
		if os.Getenv("LULL_TEST_CONFINED") == "" {
			self := must1(os.Executable())
			cmd := exec.Command("systemd-run", append([]string{"--user", "--quiet", "--pipe", "--wait", "--collect", "--property=MemoryMax=512M",
				"--property=TasksMax=64", "--setenv=LULL_TEST_CONFINED=1"}, passed(self)...)...)
			cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
			out := must1(cmd.StdoutPipe())
			must(cmd.Start())
			lines := bufio.NewReader(out)
			must1(lines.ReadString('\n'))
			a.ready()
			answer := must1(lines.ReadString('\n'))
			cmd.Wait()
			return strings.TrimSpace(answer)
		}
		lock := readLock("/run/lull/runctl/lull." + used + ".lock")
		defer lock.Close()
		before := must1(os.ReadFile("/proc/self/cgroup"))
		end := calls(a, dial(), bus.ManagerInterface+".JoinRun", used, current(used), "")
		if after := must1(os.ReadFile("/proc/self/cgroup")); string(after) != string(before) {
			return fmt.Sprintf("ESCAPED from %s to %s", before, after)
		}
		return end + ", and stays in its unit"
	},
	"a run": func(a *arena) string { // no assault: what a launcher does
		lock := readLock("/run/lull/runctl/lull." + used + ".lock")
		must(dial().Object(bus.AgentName, bus.AgentPath).Call(bus.ManagerInterface+".JoinRun", 0, used, current(used), "").Err)
		lock.Close()
		a.hold()
		_, unified, _ := strings.Cut("\n"+string(must1(os.ReadFile("/proc/self/cgroup"))), "\n0::") // cgroups(7)
		return unified
	},
	"a lock": func(a *arena) string {
		own := filepath.Join(os.Getenv("HOME"), "lock")
		must(os.WriteFile(own, nil, 0o644))
		must(os.WriteFile("/proc/self/comm", []byte("firefox"), 0)) // as whom the holder would be named
		lock := readLock(pick(a, "/run/lull/runctl/lull."+target+".lock", own))
		a.hold()
		lock.Close()
		return "a read lock, held throughout"
	},
	"open files": func(a *arena) string {
		var files []string
		must(filepath.WalkDir(pick(a, must1(filepath.EvalSymlinks("/var/lib/lull/current/"+target)), "/usr/share/dbus-1"), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return nil
		}))
		a.ready()
		n := 0
		for ; !a.ended(); n++ {
			if f, err := os.Open(files[n%len(files)]); err == nil {
				f.Close()
			}
		}
		return count(n, "opens and closes")
	},
	"a deep directory": func(a *arena) string {
		must(os.Chdir(os.Getenv("HOME")))
		name := strings.Repeat("d", 250)
		depth := 0
		for ; depth < 20; depth++ {
			must(os.Mkdir(name, 0o755))
			must(os.Chdir(name))
		}
		a.hold()
		for ; depth > 0; depth-- {
			must(os.Chdir(".."))
			must(os.Remove(name))
		}
		return "a working directory that no path reaches"
	},
	"launches": func(a *arena) string {
		// Elsewhere it is the program by itself, after a launcher that launches nothing: what
		// starting the two costs the machine is not aimed at lull.
		launch := pick(a, [][]string{{"/var/lib/lull/exports/bin/" + used}},
			[][]string{{"/usr/libexec/lull/lull-run", "-h"}, {filepath.Join("/var/lib/lull/packages", current(used), "bin/app")}})
		var n atomic.Int64
		var wg sync.WaitGroup
		a.ready()
		for range 4 {
			wg.Go(func() {
				for !a.ended() {
					for _, argv := range launch {
						if err := exec.Command(argv[0], argv[1:]...).Run(); err == nil {
							n.Add(1)
						}
					}
				}
			})
		}
		wg.Wait()
		return count(int(n.Load()), "launches")
	},
	"calls for others": func(a *arena) string {
		conn := dial()
		agent := conn.Object(bus.AgentName, bus.AgentPath)
		var ends []string
		for _, c := range []struct {
			method string
			args   []any
		}{
			{bus.ManagerInterface + ".Revert", []any{target, map[string]dbus.Variant{}}},
			{bus.ManagerInterface + ".Remove", []any{target, map[string]dbus.Variant{}}},
			{bus.ManagerInterface + ".Refresh", []any{[]string{target}, map[string]dbus.Variant{}}},
			{bus.ManagerInterface + ".Hold", []any{target, uint64(time.Now().Add(300 * 24 * time.Hour).UnixMicro()), "for ever"}},
			{bus.ManagerInterface + ".Answer", []any{"1", "restart-now"}},
			{bus.ManagerInterface + ".Reload", nil},
			{bus.SpaceInterface + ".Collect", []any{map[string]dbus.Variant{}}},
		} {
			end := "DONE"
			if err := agent.Call(c.method, 0, c.args...).Err; err != nil {
				end = short(nameOf(err))
			}
			ends = append(ends, c.method[strings.LastIndexByte(c.method, '.')+1:]+" "+end)
		}
		a.hold()
		return strings.Join(ends, ", ")
	},
	"everything on the bus": func(a *arena) string {
		var ends []string
		var wg sync.WaitGroup
		var mu sync.Mutex
		var ready sync.WaitGroup
		for _, name := range []string{"leases", "helpers", "long texts", "calls without a reply", "connections"} {
			cmd := exec.Command(must1(os.Executable()))
			cmd.Env = append(os.Environ(), "LULL_TEST_ASSAULT="+name, "LULL_TEST_TOGETHER=1")
			cmd.Stderr = os.Stderr
			in, out := must1(cmd.StdinPipe()), bufio.NewReader(must1(cmd.StdoutPipe()))
			must(cmd.Start())
			ready.Add(1)
			wg.Go(func() {
				must1(out.ReadString('\n'))
				ready.Done()
				<-a.over
				in.Close()
				rest := must1(io.ReadAll(out))
				must(cmd.Wait())
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, name+": "+strings.TrimSpace(string(rest)))
			})
		}
		ready.Wait()
		a.ready()
		wg.Wait()
		slices.Sort(ends)
		return strings.Join(ends, "; ")
	},
	"a slow repository": func(a *arena) string {
		must(os.WriteFile(slowSwitch, nil, 0o644))
		a.hold()
		must(os.Remove(slowSwitch))
		return "one byte in ten seconds"
	},
}

// assault is this program as the attacker: it prints a line when the load is there,
// and one with what came of it after its input has ended.
func assault(name string) {
	over := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	a := &arena{aimed: os.Getenv("LULL_TEST_ELSEWHERE") == "", together: os.Getenv("LULL_TEST_TOGETHER") != "", over: over,
		ready: sync.OnceFunc(func() { fmt.Println("ready") })}
	fmt.Println(assaults[name](a))
}

// passed is a command line that continues this program.
func passed(self string) (args []string) {
	for _, name := range []string{"LULL_TEST_ASSAULT", "LULL_TEST_ELSEWHERE"} {
		args = append(args, "--setenv="+name+"="+os.Getenv(name))
	}
	return append(args, self)
}

func slicesBeside(a *arena, n int) string {
	top := managerGroup()
	name := func(i int) string { return filepath.Join(top, fmt.Sprintf("x%d%s", i, pick(a, ".slice", ".other"))) }
	for i := range n {
		must(os.Mkdir(name(i), 0o755))
	}
	a.hold()
	for i := range n {
		must(unix.Rmdir(name(i)))
	}
	return count(n, "slices")
}

// managerGroup is the group of the user's systemd, below which the user makes others.
func managerGroup() string {
	return fmt.Sprintf("/sys/fs/cgroup/user.slice/user-%d.slice/user@%[1]d.service", os.Getuid())
}

func dial() *dbus.Conn { return must1(dbus.Connect(systemBus)) }

type object struct {
	name string
	path dbus.ObjectPath
}

// place is where a call of an assault goes: to the agent, or to logind, with an
// argument of the same length.
func place(a *arena, method string, args []any) (object, string, []any) {
	if a.aimed {
		return object{bus.AgentName, bus.AgentPath}, method, args
	}
	login := object{"org.freedesktop.login1", "/org/freedesktop/login1"}
	if len(args) == 1 {
		if text, ok := args[0].(string); ok && len(text) > 1<<10 {
			return login, "org.freedesktop.login1.Manager.GetSession", args
		}
	}
	return login, "org.freedesktop.login1.Manager.ListSessions", nil
}

// calls repeats a call, 32 concurrently, and counts the results.
func calls(a *arena, conn *dbus.Conn, method string, args ...any) string {
	var ends tallies
	o, method, args := place(a, method, args)
	var wg sync.WaitGroup
	var once sync.Once
	for range 32 {
		wg.Go(func() {
			for !a.ended() {
				ends.note(conn.Object(o.name, o.path).Call(method, 0, args...).Err)
				once.Do(a.ready)
			}
		})
	}
	wg.Wait()
	return ends.String()
}

// tallies counts ends of calls by the name of the error. The zero value is ready.
type tallies struct {
	mu   sync.Mutex
	ends map[string]int
}

func (t *tallies) note(err error) {
	end := "done"
	if err != nil {
		end = short(nameOf(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ends == nil {
		t.ends = map[string]int{}
	}
	t.ends[end]++
}

func (t *tallies) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for end, n := range t.ends {
		parts = append(parts, count(n, end))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// short is the last part of the name of an error.
func short(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

func count(n int, what string) string { return fmt.Sprintf("%d %s", n, what) }

// current is the hash of a package that is in use.
func current(instance string) string {
	return filepath.Base(must1(filepath.EvalSymlinks("/var/lib/lull/current/" + instance)))
}

// readLock takes an open file description lock, fcntl(2).
func readLock(path string) *os.File {
	f := must1(os.Open(path))
	must(unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}))
	return f
}

func said(cmd *exec.Cmd) {
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %v\n%s", cmd.Args, err, out))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1[T any](v T, err error) T {
	must(err)
	return v
}

// timings are what a user has waited for.
type timings struct{ Launch, Status []time.Duration }

// probe is this program as another user: it launches and asks for the status n times.
func probe(n int) {
	var got timings
	timed := func(argv ...string) time.Duration {
		start := time.Now()
		said(exec.Command(argv[0], argv[1:]...))
		return time.Since(start)
	}
	for range n {
		got.Launch = append(got.Launch, timed("/var/lib/lull/exports/bin/"+used))
		got.Status = append(got.Status, timed("lull", "status"))
	}
	must(json.NewEncoder(os.Stdout).Encode(got))
}

// serve is this program as the web server of a repository that drips on request.
func serve() {
	files := http.FileServer(http.Dir(slowSite))
	must(http.ListenAndServe("127.0.0.1:8099", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(slowSwitch); err != nil || !strings.Contains(r.URL.Path, "timestamp") {
			files.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", "4000")
		for range 4000 {
			if _, err := io.WriteString(w, " "); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(10 * time.Second):
			case <-r.Context().Done():
				return
			}
		}
	})))
}
