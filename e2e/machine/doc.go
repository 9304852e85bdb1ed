// Package machine tests lull on whole machines: Debian's kernel, systemd, logind
// and bus, in QEMU, with cgroup v1 and v2. lull comes into them as lull's own Debian
// package. What only a whole machine has is tested here: shutdown, boot, power cuts in
// between, a logind that is restarted, a clock that jumps, a user at the screen, and
// what becomes of all that when the package is upgraded, downgraded, removed, purged.
//
// One machine is used for all that is tested on a hierarchy, and booted as seldom as
// possible. Each package that is installed in it is there for one thing.
package machine
