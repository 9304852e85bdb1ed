// Package machine tests lull on whole machines: Debian's kernel, systemd, logind
// and bus, with cgroup v1 and v2. lull comes into them as lull's own Debian package. They
// are shut down and booted, a logind is restarted, a user is at the screen, and all of that
// goes on when the package is upgraded, downgraded, removed and purged.
//
// What needs a kernel of its own (power cuts, a suspended machine, a clock that jumps, the
// limits of cgroups) is played in QEMU, which emulates the processor, and all else in a
// container, which is ten times as fast. LULL_MACHINE=all plays all of it in QEMU.
//
// One machine is used for all tests of a hierarchy, and booted as seldom as
// possible. Each installed package serves one test.
package machine
