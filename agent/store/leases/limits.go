package leases

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
)

const (
	// maxOfUser is how many leases one user may have. root, and the user as whom the
	// agent runs, are bounded by maxAll.
	maxOfUser = 1024
	// maxAll bounds all leases together: each is a file in the run directory, which is
	// memory (a page and an inode of tmpfs).
	maxAll = 16384
)

// Reserve counts one lease more of a user. Error LimitsExceeded: it has too many. The
// caller calls Cancel or Grant of the slot.
func (d *Dir) Reserve(uid uint32, unbounded bool) (*Slot, error) {
	of := accounts.Of(uid)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.all >= maxAll:
		return nil, errkind.New(errkind.LimitsExceeded, "cannot open a package: %d are open, which is the limit for all users", d.all)
	case d.users[of] >= maxOfUser && !unbounded:
		return nil, errkind.New(errkind.LimitsExceeded, "cannot open a package: user %s has %d open", accounts.Name(of), d.users[of]).
			WithHint("close some of them; lull status --json shows who holds which")
	}
	d.users[of]++
	d.all++
	return &Slot{d: d, uid: uid, of: of}, nil
}

// startOf is when a process started, in ticks since the boot: the 22nd field of
// proc_pid_stat(5).
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(b[max(bytes.LastIndexByte(b, ')'), 0):], []byte(") "))
	fields := bytes.Fields(rest) // from the third on
	if !ok || len(fields) < 20 {
		return 0, errors.New("cannot read when a process started")
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
