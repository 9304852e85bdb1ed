package rig

import (
	"strings"
	"testing"
)

// TestLastWords checks that the console of a machine that has crashed is shown from
// the first complaint on, however long the report is, and of others its end.
func TestLastWords(t *testing.T) {
	before := strings.Repeat("[    1.0] virtio_blk virtio1: 1/0/0 queues\n", 60)
	trace := strings.Repeat("[    1.9]  handle_softirqs+0xcc/0x280\n", 300)
	for _, first := range []string{
		"[    1.9] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n",
		"[    1.9] BUG: unable to handle page fault for address: ffffffffffffff00\n",
		"[    1.9] kernel BUG at mm/slub.c:441!\n",
		"[    1.9] general protection fault, probably for non-canonical address 0xdead: 0000 [#1]\n",
		"[    1.9] watchdog: BUG: soft lockup - CPU#0 stuck for 24s! [swapper/0:1]\n",
		"guest: cannot mount /dev/vda on /sysroot: invalid argument\n",
		"[    1.9] Kernel panic - not syncing: VFS: Unable to mount root fs\n",
	} {
		want := first + trace + "[    2.0] Kernel panic - not syncing: Fatal exception in interrupt\n"
		if got := lastWords(before + want); got != want {
			t.Errorf("a console with %q is shown from %.60q on, %d of %d bytes", first, got, len(got), len(want))
		}
	}
	if got := lastWords(before); strings.Count(got, "\n") != 39 {
		t.Errorf("of a console without a crash these lines are shown: %q", got)
	}
}
