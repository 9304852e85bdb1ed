package delta_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// plainObject is an object file with the types of kernel in an order, and nothing else.
func plainObject(order []int) []byte {
	types, _ := kernel(order)
	btf, names := types.section(), "\x00.BTF\x00.names\x00"
	b := make([]byte, 64, 64+len(btf)+len(names)+3*64)
	copy(b, "\x7fELF\x02\x01\x01")
	put := binary.LittleEndian
	put.PutUint16(b[16:], uint16(elf.ET_REL))
	put.PutUint16(b[18:], uint16(elf.EM_X86_64))
	put.PutUint64(b[40:], uint64(64+len(btf)+len(names)))
	put.PutUint16(b[58:], 64)
	put.PutUint16(b[60:], 3)
	put.PutUint16(b[62:], 2)
	b = append(append(b, btf...), names...)
	for _, s := range [3]elf.Section64{{}, {Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(btf))},
		{Name: 6, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(btf)), Size: uint64(len(names))}} {
		b, _ = binary.Append(b, put, s)
	}
	return b
}

// objects are the files of testdata/version2.pack, and two of those of version3.pack.
func objects() (old, new []byte) {
	var first, second []int
	for i := range 50 {
		first, second = append(first, i), append(second, (i+17)%50)
	}
	return plainObject(first), plainObject(second)
}

// smallImage is the last file of version3.pack and version4.pack: text around an LZ4 frame of ten bytes.
var smallImage = []byte("head\x02\x21\x4c\x18\x0b\x00\x00\x00\xa0abcdefghijtail")

// TestFormerVersions: packs of versions 1 to 4 make their files. One of an unknown version is an
// error.
func TestFormerVersions(t *testing.T) {
	c := content{}
	old, new, alone := formerFiles()
	c.add(old)
	former := c.make(t, "version1.pack", c.add(new), c.add(alone))
	old, new = objects()
	c.add(old)
	c.make(t, "version2.pack", c.add(new))
	c.make(t, "version3.pack", c.add(new), c.add(smallImage))
	old, new, alone = formerFiles()
	c.add(gzipped(t, old, 9))
	c.make(t, "version4.pack", c.add(gzipped(t, new, 9)), c.add(gzipped(t, alone, 6)), c.add(smallImage))
	later := append([]byte("LULLDLT9"), former[8:]...)
	if _, err := delta.Open(bytes.NewReader(later), int64(len(later))); !errors.Is(err, delta.ErrMalformed) {
		t.Errorf("a later version: %v, want %v", err, delta.ErrMalformed)
	}
}

// make makes the files of a pack, and returns the pack.
func (c content) make(t *testing.T, name string, want ...delta.File) []byte {
	t.Helper()
	pack, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := delta.Open(bytes.NewReader(pack), int64(len(pack)))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	if err := p.Decode(t.Context(), c.at, func(f delta.File) (io.WriteCloser, error) {
		if f != want[made] {
			t.Errorf("%s: file %d is %v, want %v", name, made, f, want[made])
		}
		made++
		return &checked{want: c[f.Digest]}, nil
	}); err != nil || made != len(want) {
		t.Errorf("%s: %d files were made, want %d: %v", name, made, len(want), err)
	}
	return pack
}
