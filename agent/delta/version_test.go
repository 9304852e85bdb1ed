package delta_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/lull/lull/agent/delta"
)

// formerFiles are the files of testdata/version1.pack.
func formerFiles() (old, new, alone []byte) {
	var o, n strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&o, "line %d of the old file\n", i)
		switch {
		case i%200 == 7:
			fmt.Fprintf(&n, "another line, which is new: %d\n", i*i)
		case i%150 == 3:
			fmt.Fprintf(&n, "line %d of the own file\n", i)
		default:
			fmt.Fprintf(&n, "line %d of the old file\n", i)
		}
	}
	return []byte(o.String()), []byte(n.String()), []byte(strings.Repeat("alone", 50))
}

// TestFormerVersion: a pack of version 1 makes its files. One of an unknown version is an error.
func TestFormerVersion(t *testing.T) {
	pack, err := os.ReadFile("testdata/version1.pack")
	if err != nil {
		t.Fatal(err)
	}
	old, new, alone := formerFiles()
	c := content{}
	c.add(old)
	want := []delta.File{c.add(new), c.add(alone)}
	p, err := delta.Open(bytes.NewReader(pack), int64(len(pack)))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	if err := p.Decode(t.Context(), c.at, func(f delta.File) (io.WriteCloser, error) {
		if f != want[made] {
			t.Errorf("file %d is %v, want %v", made, f, want[made])
		}
		made++
		return &checked{want: c[f.Digest]}, nil
	}); err != nil || made != len(want) {
		t.Errorf("%d files were made, want %d: %v", made, len(want), err)
	}
	later := append([]byte("LULLDLT9"), pack[8:]...)
	if _, err := delta.Open(bytes.NewReader(later), int64(len(later))); !errors.Is(err, delta.ErrMalformed) {
		t.Errorf("a later version: %v, want %v", err, delta.ErrMalformed)
	}
}
