package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/e2e/require"
)

// filled makes a file with enough in it for several pages.
func filled(t *testing.T) string {
	t.Helper()
	d, path := open(t)
	for n := range 40 {
		name := fmt.Sprintf("org.example.app%02d", n)
		err := d.UpdateInstance(name, func(i *Instance) error {
			for r := range uint32(6) {
				i.Revisions = append(i.Revisions, Revision{Number: r + 1, Package: digest.Of([]byte{byte(n), byte(r)}), Version: "1", Made: time.Now()})
			}
			i.Last = 6
			return nil
		})
		err = errors.Join(err, d.PutHold(Hold{Instance: name, UID: 7, Owner: "ann", Until: time.Now().Add(time.Hour)}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.PutSet(Retained, []digest.Digest{digest.Of(nil)}), d.PutRefresh("1", "x"), d.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// judged opens a damaged file: either it is refused as damaged, or all of it is as it was.
func judged(t *testing.T, path string) (refused bool) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(path)
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		if !strings.HasPrefix(err.Error(), "cannot use "+path+": it is damaged: ") {
			t.Errorf("got %v, want \"cannot use %s: it is damaged: …\"", err, path)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("got a damaged file changed from %d to %d bytes (%v), want it unchanged", len(before), len(after), err)
		}
		return true
	}
	if err != nil {
		t.Fatalf("neither whole nor damaged: %v", err)
	}
	defer d.Close()
	list, err := d.Instances()
	if err != nil || len(list) != 40 || list[39].Last != 6 || len(list[39].Revisions) != 6 {
		t.Fatalf("%d instances, %v; want no error, 40 of them, last 6 and 6 revisions", len(list), err)
	}
	if set, err := d.Set(Retained); err != nil || len(set) != 1 {
		t.Fatalf("retained: got %v, %v; want one package and no error", set, err)
	}
	return false
}

func TestDamagedFileIsRefused(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"truncated to 5 pages": func(b []byte) []byte { return b[:5*4096] },
		"truncated to a page":  func(b []byte) []byte { return b[:4096] },
		"truncated to 3 pages": func(b []byte) []byte { return b[:3*4096] },
		"truncated to a byte":  func(b []byte) []byte { return b[:1] },
		"zeroed":               func(b []byte) []byte { return make([]byte, len(b)) },
		"zeroed from page 2":   func(b []byte) []byte { clear(b[2*4096:]); return b },
		"ones from page 2": func(b []byte) []byte {
			for i := 2 * 4096; i < len(b); i++ {
				b[i] = 0xff
			}
			return b
		},
		"text":             func(b []byte) []byte { return slices.Repeat([]byte("hello "), len(b)/6) },
		"both metas gone":  func(b []byte) []byte { clear(b[:2*4096]); return b },
		"a digit changed":  func(b []byte) []byte { return []byte(strings.Replace(string(b), `"last":6`, `"last":7`, -1)) },
		"an owner changed": func(b []byte) []byte { return []byte(strings.Replace(string(b), `"ann"`, `"bob"`, -1)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			if !judged(t, path) {
				t.Error("it was taken for whole")
			}
			aside, err := SetAside(path, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			Salvage(aside) // must end in any case
			if list, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(list) != 1 || list[0] != aside {
				t.Errorf("got files %q, want only the one set aside, %q", list, aside)
			}
			d, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
		})
	}
}

// TestFlippedBits: a bit that flips anywhere is found, or means nothing.
func TestFlippedBits(t *testing.T) {
	path := filled(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 400 {
		b := slices.Clone(whole)
		bit := random.IntN(len(b) * 8)
		b[bit/8] ^= 1 << (bit % 8)
		one := filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(one, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if judged(t, one) {
			refused++
			Salvage(one)
		}
	}
	if refused < 20 {
		t.Errorf("got %d of 400 flipped bits found, want at least 20", refused)
	}
}

func TestSalvage(t *testing.T) {
	path := filled(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(b), `"instance":"org.example.app05","uid"`, `"instance":"org.example.app55","uid"`, -1)
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	if !judged(t, path) {
		t.Fatal("it was taken for whole")
	}
	s := Salvage(path)
	if len(s.Instances) != 40 || len(s.Holds) != 39 || !s.Known || len(s.Retained) != 1 {
		t.Errorf("got %d instances, %d holds and retained %v (known %v); want 40, 39 and one that is known", len(s.Instances), len(s.Holds), s.Retained, s.Known)
	}
}

// TestDamageWhileOpen: a file that loses its end while it is in use is an error,
// not the end of the process.
func TestDamageWhileOpen(t *testing.T) {
	path := filled(t)
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Truncate(path, 2*4096); err != nil {
		t.Fatal(err)
	}
	want := "it is damaged: "
	if _, err := d.Instances(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("reading: got %v, want an error and %q in the error", err, want)
	}
	for range 2 { // the second one must not wait for a lock that will never be released
		if err := d.PutLoss(Loss{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("writing: got %v, want an error and %q in the error", err, want)
		}
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("lull-test", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "state.db")
	d, err := Open(path)
	if err := errors.Join(err, d.PutLoss(Loss{Cause: "x"}), d.Close()); err != nil {
		t.Fatal(err)
	}
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if d, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if l, lost, err := d.Lost(); err != nil || !lost || l.Cause != "x" || !d.ReadOnly() {
		t.Fatalf("Lost: got %+v, %v, %v and read-only %v; want cause x, true, no error and true", l, lost, err, d.ReadOnly())
	}
	want := "cannot change " + path + ": read-only file system"
	if err := d.ForgetLoss(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	remount(0)
	if err := d.ForgetLoss(); err != nil || d.ReadOnly() {
		t.Errorf("writable again: got %v and read-only %v, want no error and false", err, d.ReadOnly())
	}
	if _, lost, err := d.Lost(); err != nil || lost {
		t.Errorf("Lost: got %v, %v; want false and no error", lost, err)
	}
}
