package cgroup

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const (
		tmpfs   = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
		freezer = "37 31 0:34 / /sys/fs/cgroup/freezer rw,nosuid shared:9 - cgroup cgroup rw,freezer\n"
		memory  = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
		pure    = "26 23 0:24 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	)
	for _, c := range []struct {
		name, in string
		want     Layout
	}{
		{"nothing", "", Layout{}},
		{"hybrid", tmpfs + memory + freezer + unified, Layout{Freezer: "/sys/fs/cgroup/freezer", Unified: "/sys/fs/cgroup/unified"}},
		{"pure v2", pure, Layout{Unified: "/sys/fs/cgroup"}},
		{"pure v1", tmpfs + memory + freezer, Layout{Freezer: "/sys/fs/cgroup/freezer"}},
		{"no freezer", tmpfs + memory, Layout{}},
		{"together with others", "1 1 0:1 / /x rw - cgroup cgroup rw,devices,freezer\n", Layout{Freezer: "/x"}},
		{"a controller whose name only contains it", "1 1 0:1 / /x rw - cgroup cgroup rw,antifreezer\n", Layout{}},
		{"part of the hierarchy", "1 1 0:1 /docker/abc /x rw - cgroup cgroup rw,freezer\n2 1 0:2 /docker/abc /y rw - cgroup2 cgroup2 rw\n", Layout{}},
		{"the first of two", unified + "1 1 0:1 / /other rw - cgroup2 cgroup2 rw\n", Layout{Unified: "/sys/fs/cgroup/unified"}},
		{"escapes", `1 1 0:1 / /a\040b\134c rw - cgroup2 cgroup2 rw` + "\n", Layout{Unified: `/a b\c`}},
		{"garbage", "x\n1 2 - 3\n - \n1 2 3 / 5 6 -\n", Layout{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(strings.NewReader(c.in))
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestParsePopulated(t *testing.T) {
	for _, c := range []struct {
		in   string
		want bool
		bad  bool
	}{
		{"populated 0\nfrozen 0\n", false, false},
		{"frozen 0\npopulated 1\n", true, false},
		{"frozen 0\n", false, true},
		{"", false, true},
		{"populated 2\n", false, true},
	} {
		got, err := parsePopulated([]byte(c.in))
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("parsePopulated(%q): got %v, %v; want %v and an error: %v", c.in, got, err, c.want, c.bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`1 1 0:1 / /a\040b rw - cgroup2 cgroup2 rw` + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		l, _ := Parse(strings.NewReader(s))
		if l.SystemdUnified {
			t.Error("mountinfo cannot know about systemd")
		}
	})
}
