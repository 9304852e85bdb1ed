// Package machine tests lull on whole machines: Debian's kernel, systemd, logind
// and bus, in QEMU, with cgroup v1 and v2. lull comes into them as lull's own Debian
// package. These tests need a whole machine: shutdown, boot, power cuts in
// between, a suspended machine, a logind that is restarted, a clock that jumps, a
// user at the screen, and all of that when the package is upgraded, downgraded, removed, purged.
//
// One machine is used for all tests of a hierarchy, and booted as seldom as
// possible. Each installed package serves one test.
package machine
