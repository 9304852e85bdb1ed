package inotify

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func event(wd int32, mask uint32, name string, padded int) []byte {
	b := make([]byte, unix.SizeofInotifyEvent+padded)
	binary.NativeEndian.PutUint32(b, uint32(wd))
	binary.NativeEndian.PutUint32(b[4:], mask)
	binary.NativeEndian.PutUint32(b[12:], uint32(padded))
	copy(b[unix.SizeofInotifyEvent:], name)
	return b
}

func TestParse(t *testing.T) {
	b := append(event(3, unix.IN_CREATE, "name", 16), event(-1, unix.IN_Q_OVERFLOW, "", 0)...)
	got, err := parse(b)
	if err != nil || len(got) != 2 || got[0] != (Event{3, unix.IN_CREATE, "name"}) || !got[1].Overflow() || got[1].Watch != -1 {
		t.Errorf("got %+v, %v; want the creation of \"name\" in watch 3, an overflow, and no error", got, err)
	}
	for n := 1; n < len(b); n++ {
		if _, err := parse(b[:n]); (err == nil) != (n == 32) {
			t.Errorf("parse of the first %d bytes: got %v, want an error: %v", n, err, n != 32)
		}
	}
}

func TestReadAndClose(t *testing.T) {
	dir := t.TempDir()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	wd, err := w.Add(dir, unix.IN_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(filepath.Join(dir, "none"), unix.IN_CREATE); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v; want the error %v", err, os.ErrNotExist)
	}
	os.WriteFile(filepath.Join(dir, "a"), nil, 0o600)
	got, err := w.Read()
	if err != nil || len(got) != 1 || got[0].Watch != wd || got[0].Name != "a" {
		t.Errorf("got %+v, %v; want no error, 1 of them, watch %v and name %q", got, err, wd, "a")
	}
	if err := errors.Join(w.Remove(wd), w.Remove(wd)); err != nil {
		t.Error(err)
	}
	if got, err = w.Read(); err != nil || !got[0].Ended() {
		t.Errorf("after Remove: got %+v, %v; want an event that ends the watch, and no error", got, err)
	}
	done := make(chan error)
	go func() {
		_, err := w.Read()
		done <- err
	}()
	time.Sleep(10 * time.Millisecond) // most likely in read(2) by now
	w.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v; want the error %v", err, os.ErrClosed)
	}
}
