package machine_test

import (
	"strconv"
	"strings"
)

// bounded: the kernel has the limits of the agent's unit, and what the agent has had
// since it was started is far from them.
func bounded(s *scene) {
	group := s.sh("systemctl show --value -p ControlGroup lulld")
	limit := func(v1, v2 string) string {
		if s.v1 {
			controller, _, _ := strings.Cut(v1, ".")
			return s.sh("cat /sys/fs/cgroup/%s%s/%s", controller, group, v1)
		}
		return s.sh("cat /sys/fs/cgroup%s/%s", group, v2)
	}
	for _, l := range []struct{ v1, v2, want string }{
		{"memory.limit_in_bytes", "memory.max", "1073741824"},
		{"pids.max", "pids.max", "512"},
	} {
		if got := limit(l.v1, l.v2); got != l.want {
			s.Errorf("%s is %s, want %s", l.v2, got, l.want)
		}
	}
	tasks, err := strconv.Atoi(limit("pids.current", "pids.current"))
	if err != nil || tasks > 512/4 {
		s.Errorf("the agent has %d tasks, %v", tasks, err)
	}
	// Resident memory counts here, not the page cache of written files.
	peak := s.sh("awk '/^VmHWM/ {print $2}' /proc/$(systemctl show --value -p MainPID lulld)/status")
	if n, err := strconv.Atoi(peak); err != nil || n > 256<<10 {
		s.Errorf("the agent has taken %s KiB, %v", peak, err)
	}
	s.Logf("the agent has %d of 512 tasks, and has taken %s KiB of 1 GiB", tasks, peak)
}
