package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
)

// lockRootEnv makes the test binary another agent, which locks that root until
// its input ends.
const lockRootEnv = "LULL_TEST_LOCK_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(lockRootEnv)
	if root == "" {
		os.Exit(m.Run())
	}
	if _, err := store.LockRoot(root); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("locked")
	bufio.NewReader(os.Stdin).ReadByte()
}

func TestLockRoot(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	r.Put(t, s, one)
	lock, err := store.LockRoot(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.LockRoot(s.Root()); !errkind.Is(err, errkind.Busy) || !strings.Contains(err.Error(), fmt.Sprintf("another agent (pid %d) uses", os.Getpid())) {
		t.Errorf("locked twice: got %v, want an error of kind %v and %q in the error", err, errkind.Busy, fmt.Sprintf("another agent (pid %d) uses", os.Getpid()))
	}
	// Our own lock does not block us.
	own, err := store.Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.Ingest(two); err != nil {
		t.Error(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(s.Root(), "lock")); err != nil {
		t.Error(err)
	} else if fi.Mode() != 0o600 {
		t.Errorf("the lock file has mode %v, want -rw-------", fi.Mode())
	}
}

// TestSecondAgent runs another agent on the root.
func TestSecondAgent(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	r.Put(t, s, one)

	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), lockRootEnv+"="+s.Root())
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		other.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("%q, want %q, %v", line, "locked\n", err)
	}

	if _, err := store.LockRoot(s.Root()); !errkind.Is(err, errkind.Busy) || !strings.Contains(err.Error(), fmt.Sprintf("another agent (pid %d) uses", other.Process.Pid)) {
		t.Errorf("locked twice: got %v, want an error of kind %v and %q in the error", err, errkind.Busy, fmt.Sprintf("another agent (pid %d) uses", other.Process.Pid))
	}
	keep := filepath.Join(s.Root(), "trash", "in use by the other")
	os.WriteFile(keep, nil, 0o600)
	guest, err := store.Open(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error("a guest has cleaned up")
	}
	if !guest.HasPackage(one) {
		t.Error("a guest cannot read")
	}
	all := func() (bool, error) { return true, nil }
	_, e1 := guest.Ingest(two)
	_, e2 := guest.TakeTree(one, all)
	_, _, e3 := guest.Trash(nil, nil, nil)
	_, _, e4 := guest.Restage(one, nil)
	for i, err := range []error{e1, e2, e3, e4, guest.Materialise(digest.Of(nil)), guest.SetReserve(1), guest.DropBlob(store.MetaKey(one)), guest.DropIngest(one)} {
		if !errkind.Is(err, errkind.Busy) {
			t.Errorf("change %d by a guest: %v; want an error of kind %v", i, err, errkind.Busy)
		}
	}

	// The lock ends with its holder, regardless of its file.
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	other.Wait()
	lock, err := store.LockRoot(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(lock.Close(), os.Remove(keep)); err != nil {
		t.Error(err)
	}
}

// An agent that was killed while it started a child leaves the lock with the
// child, until that executes its program.
func TestLockOfTheDead(t *testing.T) {
	root := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_EX), func() error { _, err := fmt.Fprintf(f, "%-10d\n", dead.Process.Pid); return err }()); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		lock, err := store.LockRoot(root)
		if err == nil {
			err = lock.Close()
		}
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatal("it did not wait:", err)
	case <-time.After(20 * time.Millisecond): // longer than any attempt without waiting
	}
	f.Close()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}
