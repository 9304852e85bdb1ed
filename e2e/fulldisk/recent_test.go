package fulldisk_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestKeepRecent: a recently run package stays through a collection, is
// available at once, and is removed as soon as its space is needed, the least
// recent first. A package that can never fit takes nothing away.
func TestKeepRecent(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.Configure("policy.d/20-recent.yaml", "gc: {keep-recent: 1h}\n")
	s.StopAgent()
	s.StartAgent()
	for _, name := range []string{"one", "two", "three", "four"} {
		s.publish("org.lull."+name, "1", 15*mib)
	}
	s.publish("org.lull.large", "1", 40*mib)
	s.publish("org.lull.huge", "1", 70*mib)
	s.trust()
	run := func(names ...string) {
		t.Helper()
		for _, name := range names {
			s.MustLull("run", "--ephemeral", "org.lull."+name)
		}
	}
	kept := func(names ...string) {
		t.Helper()
		var have []string
		for _, row := range strings.Split(s.MustLull("du").Stdout, "\n") {
			if f := strings.Fields(row); len(f) > 1 && strings.HasPrefix(f[1], "org.lull.") {
				if !strings.HasSuffix(row, "recent") {
					t.Errorf("it is not recent: %s", row)
				}
				have = append(have, strings.TrimPrefix(f[1], "org.lull."))
			}
		}
		if len(have) != len(names) {
			t.Errorf("%q are there, want %q", have, names)
		}
		for _, name := range names {
			if !strings.Contains(fmt.Sprint(have), name) {
				t.Errorf("%q are there, want %q", have, names)
			}
		}
	}
	run("one", "two", "three")
	s.MustLull("gc")
	kept("one", "two", "three")
	if r := s.Lull("run", "--ephemeral", "org.lull.huge"); r.Code != 73 {
		t.Errorf("more than the disk can hold is fetched: got %v, want exit status 73", r)
	}
	kept("one", "two", "three")
	s.MustLull("gc", "--free", "10MB")
	kept("two", "three")
	run("one", "large")
	kept("large") // nothing less than all of them would have done
	run("two")
	kept("large", "two")
	run("four") // 15 MiB do not fit beside 55
	kept("four")
}
