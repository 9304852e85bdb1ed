package doctor

import "testing"

func TestCgroupMode(t *testing.T) {
	const gone = ", which systemd has no more from 258 on"
	for paths, want := range map[[2]string]string{
		{"/sys/fs/cgroup", ""}:                               "v2",
		{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"}: "v2 and v1" + gone,
		{"", "/sys/fs/cgroup/freezer"}:                       "v1" + gone,
	} {
		if got := cgroupMode(paths[0], paths[1]); got != want {
			t.Errorf("%q: %q, want %q", paths, got, want)
		}
	}
}
