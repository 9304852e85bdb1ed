package disk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func newDisk(t *testing.T) *Disk {
	t.Helper()
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, bytes.Repeat([]byte("b"), 3*pageSize+100), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := Open(base, 64*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func check(t *testing.T, d *Disk, off int64, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := d.ReadAt(b, off); err != nil || string(b) != want {
		t.Errorf("at %d there is %q (%v), not %q", off, b, err, want)
	}
}

func put(t *testing.T, d *Disk, off int64, text string) {
	t.Helper()
	if err := d.write(off, len(text), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// TestFates: what was flushed stays, the rest meets its fate.
func TestFates(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for fate := range Fates {
		d := newDisk(t)
		put(t, d, 2*pageSize-2, "old!")
		check(t, d, 2*pageSize-3, "bold!b")
		if err := d.flush(); err != nil {
			t.Fatal(err)
		}
		put(t, d, 2*pageSize-2, "new!")
		check(t, d, 2*pageSize-2, "new!")
		if err := d.write(20*pageSize, 3*pageSize, bytes.Repeat([]byte("x"), 3*pageSize)); err != nil {
			t.Fatal(err)
		}
		d.PowerOff()
		if err := d.write(0, 1, []byte("z")); err != errNoPower {
			t.Error(err)
		}
		if err := d.flush(); err != errNoPower {
			t.Error(err)
		}
		if n := d.PowerOn(fate, rng); n != 2 {
			t.Errorf("%d writes were pending, want 2", n)
		}
		check(t, d, 0, "bbbb")
		switch fate {
		case KeepAll:
			check(t, d, 2*pageSize-2, "new!")
			check(t, d, 20*pageSize, "xxxx")
		case LoseAll:
			check(t, d, 2*pageSize-2, "old!")
			check(t, d, 20*pageSize, "\x00\x00\x00\x00")
		}
		// Surviving writes are permanent.
		b := make([]byte, d.Size())
		if _, err := d.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		d.PowerOff()
		if n := d.PowerOn(LoseAll, rng); n != 0 {
			t.Errorf("%d writes were pending, want 0", n)
		}
		again := make([]byte, d.Size())
		if _, err := d.ReadAt(again, 0); err != nil || !bytes.Equal(b, again) {
			t.Errorf("%v: it has forgotten something (%v)", fate, err)
		}
		saved := filepath.Join(t.TempDir(), "saved")
		if err := d.Save(saved); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(saved); err != nil || !bytes.Equal(b, again) {
			t.Errorf("%v: what was saved is not what is there (%v)", fate, err)
		}
	}
}

// TestTorn: a write may end at any physical block, and nowhere else.
func TestTorn(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	seen := map[int]bool{}
	for range 300 {
		d := newDisk(t)
		const off, n = 8*pageSize + 512, 3 * pageSize // it reaches into four
		put(t, d, off, string(bytes.Repeat([]byte("x"), n)))
		d.PowerOff()
		d.PowerOn(Fate(2+rng.IntN(2)), rng)
		b := make([]byte, 2*n)
		if _, err := d.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		got := bytes.Count(b, []byte("x"))
		if got != 0 && got != n && (off+got)%pageSize != 0 || !bytes.HasPrefix(b, bytes.Repeat([]byte("x"), got)) {
			t.Fatalf("%d bytes are there", got)
		}
		seen[got] = true
	}
	if len(seen) != 5 {
		t.Errorf("only so many bytes were ever there: got %v, want 5 of them", seen)
	}
	for _, w := range []write{{off: 0, n: 512}, {off: 3584, n: 512}, {off: 512, n: 3584}, {off: 0, n: pageSize}} {
		for range 20 {
			if got := w.torn(rng).n; got != 0 && got != w.n {
				t.Errorf("%d bytes at %d were torn after %d", w.n, w.off, got)
			}
		}
	}
}

// TestHook cuts the power before the third flush.
func TestHook(t *testing.T) {
	d := newDisk(t)
	d.Hook(func(e Event, c Counts) bool { return e == Flush && c.Flushes == 2 })
	for i := range 3 {
		put(t, d, 0, string(rune('a'+i)))
		if err := d.flush(); (err == nil) != (i < 2) {
			t.Errorf("flush %d: %v", i, err)
		}
	}
	if c := d.Counts(); c != (Counts{Writes: 3, Flushes: 2}) {
		t.Error(c)
	}
	d.PowerOn(LoseAll, nil)
	check(t, d, 0, "b")
	for off, n := range map[int64]int{-1: 1, d.Size(): 1, d.Size() - 1: 2} {
		if d.write(off, n, make([]byte, n)) == nil {
			t.Errorf("%d bytes at %d can be written", n, off)
		}
	}
	if err := d.write(100, 50, nil); err != nil {
		t.Fatal(err)
	}
	check(t, d, 99, "b\x00")
	check(t, d, 149, "\x00b")
}
