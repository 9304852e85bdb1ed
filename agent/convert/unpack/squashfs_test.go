package unpack_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/e2e/require"
)

// appImage makes an AppImage of files, by path, whose squashfs is not compressed, so that tests
// can change it: an ELF header that ends with itself (elf(5)), and the squashfs behind it.
func appImage(t testing.TB, files map[string]string, options ...string) []byte {
	t.Helper()
	require.Program(t, "mksquashfs")
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "squashfs")
	for path, text := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{dir, out, "-comp", "gzip", "-noI", "-noD", "-noF", "-no-fragments", "-root-owned", "-quiet", "-no-progress"}
	if b, err := exec.Command("mksquashfs", append(args, options...)...).CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v\n%s", err, b)
	}
	squashfs, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01\x00AI\x02")
	header[40] = byte(len(header)) // where its section table would be, which has no entries
	return append(header, squashfs...)
}

// entry returns the directory entry of a name in an image: the offset of its inode, the
// difference of its number, its type and the length of the name are the 8 bytes before it.
func entry(t *testing.T, image []byte, name string) []byte {
	t.Helper()
	at := bytes.LastIndex(image, []byte(name)) // the directories are behind the content
	if at < 8 {
		t.Fatalf("got no entry %s in the image, want one", name)
	}
	return image[at-8:]
}

// inode returns the inode of a name. All inodes are in one block.
func inode(t *testing.T, image []byte, name string) []byte {
	t.Helper()
	const header, superblock, size = 64, 64, 2 // where the address of the table is, and the size before each block
	inodes := header + binary.LittleEndian.Uint64(image[header+superblock:]) + size
	return image[inodes+uint64(binary.LittleEndian.Uint16(entry(t, image, name))):]
}

// TestSquashfs: what a squashfs can have and no package may have is refused or made harmless.
func TestSquashfs(t *testing.T) {
	usual := map[string]string{"AppRun": "#!/bin/sh\n", "directory/beneath/file": "x", "number-one": "one", "number-two": "two"}
	t.Run("a cycle", func(t *testing.T) {
		image := appImage(t, usual)
		copy(entry(t, image, "beneath")[:2], entry(t, image, "directory")[:2]) // one inode
		if _, err := add(image); err == nil || !strings.Contains(err.Error(), `"directory/beneath" has two names`) {
			t.Errorf("got %v, want an error about the two names of directory/beneath", err)
		}
	})
	t.Run("content that overlaps", func(t *testing.T) {
		image := appImage(t, usual)
		const start = 16                                                                                 // of the content, in the inode of a file
		copy(inode(t, image, "number-two")[start:start+4], inode(t, image, "number-one")[start:start+4]) // both have 3 bytes
		var stream bytes.Buffer
		w := convert.NewWriter(&stream)
		tree := unpack.NewTree(w, unpack.Limits{Bytes: 1 << 20, Entries: 1000})
		if err := tree.Add("input", bytes.NewReader(image), int64(len(image))); err != nil {
			t.Fatal(err)
		}
		tree.Finish()
		if err := w.Done(&convert.Description{Entries: tree.Entries()}); err != nil {
			t.Fatal(err)
		}
		contents := map[int]string{}
		d, err := convert.Receive(&stream, func(int64) {}, func(c convert.Content, r io.Reader) error {
			b, err := io.ReadAll(r)
			contents[c.Number] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Entries {
			if strings.HasPrefix(e.Path, "number-") && contents[e.Content] != "one" {
				t.Errorf("%s has %q, want its own content, \"one\"", e.Path, contents[e.Content])
			}
		}
	})
	t.Run("a bomb", func(t *testing.T) {
		image := appImage(t, map[string]string{"AppRun": "#!/bin/sh\n", "zeros": string(make([]byte, 2<<20))}) // a hole
		if _, err := add(image); err == nil || !strings.Contains(err.Error(), `more than 1048576 bytes of content, with "zeros"`) || len(image) > 1<<20 {
			t.Errorf("%d bytes: got %v, want a small image and an error about the size", len(image), err)
		}
	})
	t.Run("a name out of the package", func(t *testing.T) {
		image := appImage(t, map[string]string{"AppRun": "#!/bin/sh\n", "a-b-c": "x"})
		copy(entry(t, image, "a-b-c")[8:], "../.x")
		if _, err := add(image); err == nil || !strings.Contains(err.Error(), `the name "../.x" has a slash`) {
			t.Errorf("got %v, want an error about the slash", err)
		}
	})
	t.Run("named", func(t *testing.T) {
		image := appImage(t, usual, "-p", "null c 666 root root 1 3")
		copy(entry(t, image, "number-two")[8:], "number-one")
		tree, err := add(image)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(tree.Remarks(), "\n")
		for _, want := range []string{"null: it is a device and is left out", "number-one: it is there twice"} {
			if !strings.Contains(got, want) {
				t.Errorf("got the remarks %q, want %q in them", got, want)
			}
		}
	})
}
