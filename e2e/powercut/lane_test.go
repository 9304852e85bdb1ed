package powercut_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/lull/lull/e2e/rig"
)

// lane does one thing after the other to one package.
type lane struct {
	m    *machine
	name string
	rng  *rand.Rand

	mu      sync.Mutex
	doing   string   // what is under way: install, refresh, revert, remove, gc
	may     []string // one of these versions must be current after a cut; "" is none
	current string   // the last that was reported
	before  []string // versions that a revert may restore, youngest last
	done    map[string]int
	trouble string // an operation that failed by itself
}

// step does one operation; false means that the power is gone, or a failure.
func (l *lane) step() bool {
	l.mu.Lock()
	current, before := l.current, slices.Clone(l.before)
	l.mu.Unlock()
	dice := l.rng.IntN(100)
	switch {
	case l.name == "":
		return l.do("gc", "gc")
	case current == "":
		return l.change("install", l.m.repo.latest(l.name), "install", l.name)
	case dice < 30 && len(before) > 0:
		return l.change("revert", before[len(before)-1], "revert", l.name)
	case dice < 45 || l.name == extra && dice < 75:
		args := []string{"remove", l.name}
		if l.rng.IntN(2) == 0 {
			args = append(args, "--purge")
		}
		return l.change("remove", "", args...)
	}
	v := l.publish()
	if v == "" {
		return false
	}
	return l.change("refresh", v, "refresh", l.name)
}

// publish makes a version and sends it to the machine; empty if the power is gone.
func (l *lane) publish() string {
	l.m.repo.mu.Lock()
	defer l.m.repo.mu.Unlock()
	v := l.m.repo.publish(l.name)
	if err := l.m.bring(); err != nil {
		return ""
	}
	return v
}

// change is an operation after which one of the versions is current.
func (l *lane) change(what, to string, args ...string) bool {
	l.mu.Lock()
	was := l.current
	l.may = []string{was, to}
	l.mu.Unlock()
	if !l.do(what, args...) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.may = to, []string{to}
	switch what {
	case "refresh":
		l.before = append(l.before, was)
	default:
		// A reverted version is not offered again, and its origin is not kept.
		l.before = nil
	}
	return true
}

func (l *lane) do(what string, args ...string) bool {
	l.mu.Lock()
	l.doing = what
	l.mu.Unlock()
	p := l.m.vm.Begin(rig.VMCommand{Argv: append([]string{"lull"}, args...), Env: environment})
	r, err := l.m.result(p)
	killed := err == nil && r.Code != 0 && l.m.killing && l.m.points.soonReached()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if !strings.Contains(err.Error(), "off") {
			l.trouble = fmt.Sprintf("%v: %v", err, r)
		}
		return false
	}
	if killed {
		return false
	}
	l.doing = ""
	if r.Code != 0 {
		l.trouble = fmt.Sprint(r)
		return false
	}
	l.done[what]++
	return true
}

// wrong is what has failed although the power was on.
func (l *lane) wrong() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}
