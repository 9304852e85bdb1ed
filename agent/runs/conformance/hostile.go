package conformance

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/runs"
)

// Processes that come and go, stand still or are half dead.

func manyShort(s *suite) {
	n := 200
	if s.o.Short {
		n = 20
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				p := s.launch(s.T, s.tr, Launch{Instance: app, Package: pkg})
				p.End()
			}
		})
	}
	wg.Wait()
	s.awaitVacant(app)
	all, err := s.tr.Runs()
	s.no(err)
	for _, r := range all { // others may use the machine too
		if r.Instance == app {
			s.Errorf("a run is left: %+v", r)
		}
	}
}

// storm is a shell that, on request, ends and leaves behind others that fork
// as fast as they can: four that make a short process after the other, and a
// chain in which each forks the next and ends, until the last prints a line
// and waits for the end of the input. Arguments: how many of each.
const storm = `exec 3<&0
read go
for each in 1 2 3 4; do
	(n=$1; while [ $n -gt 0 ]; do (:); n=$((n-1)); done) &
done
chain() {
	if [ $1 -gt 0 ]; then
		(chain $(($1-1))) &
	else
		echo done
		cat <&3
	fi
}
chain $2
`

// forkStorm reads the runs while 10,000 processes come and go, each with a
// life shorter than the reading.
func forkStorm(s *suite) {
	short, links := 2300, 900 // a shell calls no function more than 1000 deep
	if s.o.Short {
		short, links = 200, 200
	}
	p := s.start(app, "", "sh", "-c", storm, "storm", strconv.Itoa(short), strconv.Itoa(links))
	s.want(app, p)
	s.await(".running is there", func() bool { return s.running(app) })
	_, err := io.WriteString(p.stdin, "go\n")
	s.no(err)
	done := make(chan string, 1)
	go func() {
		b := make([]byte, len("done\n"))
		n, err := io.ReadFull(p.out, b)
		done <- fmt.Sprint(string(b[:n]), err)
	}()
	for looks := 1; ; looks++ {
		if len(s.busy(app)) == 0 {
			s.Fatalf("the storm was not seen at look %d", looks)
		}
		if !s.running(app) {
			s.Fatalf(".running is gone at look %d", looks)
		}
		select {
		case text := <-done:
			if text != "done\n<nil>" {
				s.Fatalf("the chain has ended with %q", text)
			}
			s.Logf("seen at each of %d looks", looks)
			p.End()
			s.awaitVacant(app)
			return
		default:
		}
	}
}

// twoUsers run the same application.
func twoUsers(s *suite) {
	const alice, bob = 54321, 54322
	a := s.begin(Launch{Instance: app, Package: pkg, UID: alice})
	b := s.begin(Launch{Instance: app, Package: pkg, UID: bob})
	s.want(app, a, b)
	ps, err := s.tr.Busy(app)
	s.no(err)
	for _, p := range ps {
		if want := map[int]uint32{a.PID: alice, b.PID: bob}[p.PID]; p.UID != want {
			s.Errorf("process %d belongs to user %d, want %d", p.PID, p.UID, want)
		}
	}
	ra, _ := s.run(a)
	rb, _ := s.run(b)
	if ra.Cgroup == rb.Cgroup {
		s.Errorf("both are in %s", ra.Cgroup)
	}
	s.await(".running is there", func() bool { return s.running(app) })
	a.End()
	s.await("the first user's run has ended", func() bool { _, there := s.run(a); return !there })
	s.want(app, b)
	if !s.running(app) {
		s.Error(".running is gone while the second user's application runs")
	}
	b.End()
	s.awaitVacant(app)
}

// vanishing has runs of one instance come and go while what runs is read: a
// scan that loses a group on the way must not lose anything else.
func vanishing(s *suite) {
	steady := s.start(near, "")
	n := 60
	if s.o.Short {
		n = 10
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			p := s.launch(s.T, s.tr, Launch{Instance: app, Package: pkg})
			if p.PID != 0 {
				// Groups below that come and go as well.
				all, err := s.tr.Runs()
				if err != nil {
					s.Error(err)
				}
				for _, r := range all {
					sub := filepath.Join(s.o.Mount, r.Cgroup, "sub")
					if slices.Contains(pids(r.Processes), p.PID) && os.Mkdir(sub, 0o755) == nil {
						cgroup.Join(sub, p.PID)
					}
				}
				if ps, err := s.tr.Busy(app); err != nil || !slices.Contains(pids(ps), p.PID) {
					s.Errorf("process %d is not among %v: %v", p.PID, ps, err)
				}
			}
			p.End()
		}
	}()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		if _, ok := s.run(steady); !ok {
			s.Errorf("the steady process %d was not seen", steady.PID)
			break
		}
		s.want(near, steady)
	}
	<-done
	s.awaitVacant(app)
	s.want(near, steady)
}

func stopped(s *suite) {
	p := s.start(app, "")
	s.no(p.Signal(syscall.SIGSTOP))
	s.want(app, p)
	p.End() // its standard input is closed, but it cannot see it
	s.want(app, p)
	s.no(p.Signal(syscall.SIGCONT))
	s.awaitVacant(app)
}

// frozen stops a run by the hierarchy's own means, which signals cannot undo.
func frozen(s *suite) {
	p := s.start(app, "")
	s.await(".running is there", func() bool { return s.running(app) })
	dir := s.dir(p)
	s.freeze(dir)
	s.want(app, p)
	p.End()
	s.want(app, p)
	if !s.running(app) {
		s.Error(".running is gone")
	}
	s.thaw(dir)
	s.awaitVacant(app)
}

// freeze freezes a group and returns when it is frozen.
func (s *suite) freeze(dir string) {
	s.Helper()
	s.Cleanup(func() { s.thaw(dir) })
	v1 := filepath.Join(dir, "freezer.state")
	if _, err := os.Stat(v1); err == nil {
		s.no(os.WriteFile(v1, []byte("FROZEN"), 0))
		waitFor(s.T, "the group is frozen", func() bool {
			b, err := os.ReadFile(v1)
			return err == nil && strings.TrimSpace(string(b)) == "FROZEN"
		})
	} else {
		s.no(os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("1"), 0))
		waitFor(s.T, "the group is frozen", func() bool {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
			return err == nil && strings.Contains(string(b), "frozen 1")
		})
	}
}

// thaw lets a group go on; that it is gone is no error.
func (s *suite) thaw(dir string) {
	s.Helper()
	file, word := "freezer.state", "THAWED"
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		file, word = "cgroup.freeze", "0"
	}
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(word)
		f.Close()
	}
	if err != nil && !cgroup.Gone(err) {
		s.Error(err)
	}
}

// killFrozenService: also where only a group below the service's is frozen.
func killFrozenService(s *suite) {
	for _, below := range []string{"", "a", "a/b"} {
		d := s.start(app, "daemon")
		dir := s.dir(d)
		sub := filepath.Join(dir, below)
		s.no(os.MkdirAll(sub, 0o755))
		s.no(cgroup.Join(sub, d.PID))
		s.freeze(sub)
		s.wantService(app, "daemon", d)
		s.no(s.kill(app, "daemon"))
		s.wantService(app, "daemon")
		d.End()
		s.await("the daemon has ended", func() bool { _, there := s.run(d); return !there })
	}
}

// leaderGone has a process whose first thread has ended while another lives.
func leaderGone(s *suite) {
	p := s.start(app, "", helper(s.T, "leaderless")...)
	p.await(s.T, "leaderless\n")
	waitFor(s.T, "the first thread has ended", func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/status")
		return err == nil && slices.Contains(stateOf(string(b)), "Z")
	})
	s.want(app, p)
	p.End()
	s.awaitVacant(app)
}

// zombieLeader has a process end that leaves a child behind, and is not
// reaped: the child counts, the zombie does not.
func zombieLeader(s *suite) {
	p := s.begin(Launch{Instance: app, Package: pkg, Unreaped: true,
		Command: []string{"sh", "-c", "exec 3<&0; read go; cat <&3 & echo $!"}})
	s.want(app, p)
	s.await(".running is there", func() bool { return s.running(app) })
	_, err := io.WriteString(p.stdin, "go\n")
	s.no(err)
	var child int
	if _, err := fmt.Fscanln(p.out, &child); err != nil {
		s.Fatal(err)
	}
	zombie := func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/status")
		return err == nil && slices.Contains(stateOf(string(b)), "Z")
	}
	waitFor(s.T, "the leader is a zombie", zombie)
	s.want(app, &Proc{PID: child})
	if !s.running(app) { // nothing has changed, so there is no event to wait for
		s.Error(".running is gone while the child lives")
	}
	s.no(p.stdin.Close())
	s.awaitVacant(app)
	if !zombie() {
		s.Error("the leader was reaped too early for this test")
	}
	p.Reap()
}

// unreadable hides a run behind something that is mounted over it: whether a
// process is in there is unknown, so the tracker must not report it as vacant.
func unreadable(s *suite) {
	p := s.start(app, "")
	steady := s.start(other, "")
	dir := s.dir(p)
	if err := unix.Mount("lull-test", dir, "tmpfs", 0, ""); err != nil {
		s.Skipf("nothing can be mounted here: %v", err)
	}
	covered := true
	uncover := func() {
		if covered {
			covered = false
			s.no(unix.Unmount(dir, unix.MNT_DETACH))
		}
	}
	s.Cleanup(uncover)
	// In a user's tree the doubt is about that user.
	if ps, err := s.tr.Busy(app); err == nil && (s.o.Session == 0 || len(ps) != 1 || ps[0].PID != 0 || ps[0].UID != s.o.Session) {
		s.Errorf("what runs is known: %v", ps)
	}
	doubted := func(r runs.Run) bool { return r.Instance == app && r.Processes[0].PID == 0 }
	if all, err := s.tr.Runs(); err == nil && (s.o.Session == 0 || !slices.ContainsFunc(all, doubted)) {
		s.Errorf("all runs were read: %v", all)
	}
	// Doubt about one instance does not affect another.
	s.want(other, steady)
	uncover()
	s.want(app, p)
	p.End()
	s.awaitVacant(app)
	steady.End()
	s.awaitVacant(other)
}
