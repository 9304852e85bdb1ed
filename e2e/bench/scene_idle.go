package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/e2e/rig"
)

const (
	idlePackages = 100
	idleMinute   = time.Minute
)

// playIdle lets the agent that has installed the packages rest for a minute,
// and measures it over the minute after that; then the same with an agent that
// has found them installed. The worse of the two counts.
func playIdle(tb rig.TB) results {
	myTurn(tb)
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{})
	var names []string
	for i := range idlePackages {
		name := fmt.Sprintf("org.lull.idle%03d", i)
		names = append(names, name)
		s.publish(name, "1", program, "")
	}
	s.install(names...)
	first := s.rest()
	s.agent.Stop()
	s.start()
	second := s.rest()
	notes := func(what string, r rested) string {
		return fmt.Sprintf("%s: %.0f wake-ups, %.1f ms of CPU, resident %.1f MiB (%.1f its own, %.1f of files)",
			what, r.wakeups, r.cpu, r.resident, r.anon, r.file)
	}
	both := []string{notes("the agent that has installed them", first), notes("one that has found them installed", second)}
	return results{
		"idle-wakeups": {Ours: []float64{max(first.wakeups, second.wakeups)}, Notes: both},
		"idle-memory":  {Ours: []float64{max(first.resident, second.resident)}, Notes: both},
	}
}

// rested is what a minute of idling took, and the memory after it.
type rested struct {
	wakeups              float64 // context switches of all threads
	cpu                  float64 // milliseconds
	resident, anon, file float64 // MiB: VmRSS, RssAnon, RssFile
}

// rest waits a minute for the effects of the preparations to end, and measures
// the next.
func (s *stage) rest() rested {
	time.Sleep(idleMinute)
	switches, cpu := s.effort()
	time.Sleep(idleMinute)
	switches2, cpu2 := s.effort()
	mib := func(key string) float64 {
		kib, _ := strconv.ParseFloat(strings.TrimSuffix(valueIn(fmt.Sprintf("/proc/%d/status", s.agent.PID), key), " kB"), 64)
		return kib / 1024
	}
	return rested{switches2 - switches, cpu2 - cpu, mib("VmRSS"), mib("RssAnon"), mib("RssFile")}
}

// effort sums context switches and milliseconds of CPU time of the agent's threads.
func (s *stage) effort() (switches, cpu float64) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", s.agent.PID))
	if err != nil || len(tasks) == 0 {
		s.Fatalf("the agent has no threads: %v", err)
	}
	for _, task := range tasks {
		for _, key := range []string{"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"} {
			n, err := strconv.ParseFloat(valueIn(task+"/status", key), 64)
			if err != nil {
				s.Fatalf("cannot read %s: %v", task, err)
			}
			switches += n
		}
		b, err := os.ReadFile(task + "/schedstat") // its first field: nanoseconds on a CPU
		if err != nil {
			s.Fatalf("%v", err)
		}
		ns, _ := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
		cpu += ns / 1e6
	}
	return switches, cpu
}
