package packages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lull/lull/e2e/rig"
)

// process is one of the container's, as /proc shows it: see proc(5).
type process struct {
	pid      int
	uid      int
	name     string
	terminal string          // number of the controlling terminal, "0" for none
	open     map[string]bool // terminals, pipes and sockets that it has open
}

// processes reads all processes of the container. One that ends meanwhile is left
// out.
func processes(c *rig.Container) []process {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.PID()))
	if err != nil {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var all []process
	for _, dir := range dirs {
		if s, err := os.Readlink(dir + "/ns/pid"); err != nil || s != space {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		status, err2 := os.ReadFile(dir + "/status")
		if err != nil || err2 != nil {
			continue
		}
		p := process{open: map[string]bool{}}
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		// The name is in parentheses and may have some itself.
		open, shut := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		p.name = string(stat[open+1 : shut])
		if f := strings.Fields(string(stat[shut+1:])); len(f) > 4 {
			p.terminal = f[4]
		}
		_, uids, _ := strings.Cut(string(status), "\nUid:")
		if f := strings.Fields(uids); len(f) > 1 {
			p.uid, _ = strconv.Atoi(f[0])
		}
		fds, _ := filepath.Glob(dir + "/fd/*")
		for _, fd := range fds {
			target, err := os.Readlink(fd)
			if err != nil {
				continue
			}
			var st syscall.Stat_t
			switch {
			case strings.HasPrefix(target, "pipe:"), strings.HasPrefix(target, "socket:"):
				p.open[target] = true
			case syscall.Stat(fd, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFCHR && (target == "/dev/console" || target == "/dev/tty" || strings.HasPrefix(target, "/dev/pts/") || strings.HasPrefix(target, "/dev/ptmx")):
				p.open["terminal "+target] = true
			}
		}
		all = append(all, p)
	}
	return all
}

// lookAround returns what root's processes at a terminal have open, and the
// processes of mallory's.
func lookAround(c *rig.Container) (roots map[string]bool, hers []process) {
	roots = map[string]bool{}
	for _, p := range processes(c) {
		switch {
		case p.uid == malloryUID:
			hers = append(hers, p)
		case p.uid == 0 && p.terminal != "0":
			for what := range p.open {
				roots[what] = true
			}
		}
	}
	return roots, hers
}

// findManager finds mallory's systemd.
func findManager(c *rig.Container) (int, error) {
	_, hers := lookAround(c)
	for _, p := range hers {
		if p.name == "systemd" {
			return p.pid, nil
		}
	}
	return 0, fmt.Errorf("mallory has no systemd among %+v", hers)
}
