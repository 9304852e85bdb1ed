package unpack_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/e2e/image"
)

// add unpacks one archive with small limits.
func add(content []byte) (*unpack.Tree, error) {
	t := unpack.NewTree(convert.NewWriter(io.Discard), unpack.Limits{Bytes: 1 << 20, Entries: 1000})
	err := t.Add("input", bytes.NewReader(content), int64(len(content)))
	t.Finish()
	return t, err
}

// archive makes a tar archive. A header with Typeflag TypeReg has Name as its content.
func archive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// TestHardLinks: files and symlinks can have several names, as in archives of GNU tar.
func TestHardLinks(t *testing.T) {
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
	}
	tree, err := add(archive(t, file("a"), link("b", "a"), symlink("d/line", "../a"), link("d/other", "d/line")))
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.Nodes["d/other"]; got == nil || got.Symlink != "../a" {
		t.Errorf("a hard link to a symlink: got %+v, want a symlink to ../a", got)
	}
	if got, want := tree.Nodes["b"], tree.Nodes["a"]; got == nil || got.Content != want.Content {
		t.Errorf("a hard link to a file: got %+v, want the content of %+v", got, want)
	}
}

// TestKeptMetadata: what is kept in memory has a bound, also where hard links are replaced.
func TestKeptMetadata(t *testing.T) {
	tree := unpack.NewTree(convert.NewWriter(io.Discard), unpack.Limits{Bytes: 1 << 30, Entries: 1000})
	add := func(name string) {
		t.Helper()
		if err := tree.File(name, 0o644, 1<<20, bytes.NewReader(make([]byte, 1<<20))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		add(fmt.Sprint(i, ".desktop"))
	}
	for i := range 10 {
		name := fmt.Sprint("link", i, ".desktop")
		if err := tree.Link(name, "0.desktop"); err != nil {
			t.Fatal(err)
		}
		add(name)
	}
	kept := 0
	for _, n := range tree.Nodes {
		kept += len(n.Kept)
	}
	if kept > 64<<20 {
		t.Errorf("%d bytes are kept in memory, want at most 64 MiB", kept)
	}
}

func TestRefused(t *testing.T) {
	many := make([]tar.Header, 0, 1001)
	for i := range 1001 {
		many = append(many, file(fmt.Sprint("f", i)))
	}
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"absolute":               {[]tar.Header{file("/etc/passwd")}, `"/etc/passwd" is absolute`},
		"parent":                 {[]tar.Header{file("a/../../b")}, "leads out of the package"},
		"not UTF-8":              {[]tar.Header{file("a\xff")}, "is not UTF-8"},
		"control character":      {[]tar.Header{file("a\x1b[2J")}, "has a control character"},
		"reserved":               {[]tar.Header{file(".lull/x")}, "is reserved"},
		"below a symlink":        {[]tar.Header{symlink("a", "b"), file("a/c")}, `below the symlink "a"`},
		"through a symlinked up": {[]tar.Header{symlink("a", ".."), file("a/c/d")}, `below the symlink "a"`},
		"below a file":           {[]tar.Header{file("a"), file("a/c")}, `below the file "a"`},
		"file over directory":    {[]tar.Header{file("a/b"), file("a")}, "only one of them is a directory"},
		"hard link to nothing":   {[]tar.Header{{Typeflag: tar.TypeLink, Name: "a", Linkname: "b"}}, "is no file before it"},
		"hard link out":          {[]tar.Header{{Typeflag: tar.TypeLink, Name: "a", Linkname: "/etc/shadow"}}, "is absolute"},
		"too deep":               {[]tar.Header{file(strings.Repeat("a/", 200) + "b")}, "is too deep"},
		"a long component":       {[]tar.Header{file(strings.Repeat("a", 300))}, "component that is too long"},
		"too many":               {many, "more than 1000 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := add(archive(t, c.headers...))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestBomb: an archive that unpacks to more than the limit is refused before the rest is read.
func TestBomb(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("zeros")
	if err == nil {
		_, err = w.Write(make([]byte, 8<<20))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := add(b.Bytes()); err == nil || !strings.Contains(err.Error(), `more than 1048576 bytes of content, with "zeros"`) {
		t.Errorf("got %v, want an error about the size", err)
	}
}

func TestHarmless(t *testing.T) {
	tree, err := add(archive(t,
		tar.Header{Typeflag: tar.TypeChar, Name: "dev/null"}, tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"},
		tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o4755},
		tar.Header{Typeflag: tar.TypeReg, Name: "ping", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}},
		file("twice"), file("twice"), file("Case"), file("case"),
		file("usr/bin/x"), symlink("opt/x", "/usr/bin/x"), symlink("out", "/etc/passwd"), symlink("up", "../../x"), symlink("fine", "usr/bin/x")))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(tree.Remarks(), "\n")
	for _, want := range []string{
		"dev/null: it is a device and is left out", "fifo: it is a fifo and is left out", "su: its set-user-id", `"ping": its file capabilities`,
		"twice: it is there twice", "case: its name differs from Case", "out: the symlink leads out", "up: the symlink leads out",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no remark %q in\n%s", want, got)
		}
	}
	if n := tree.Nodes["opt/x"]; n == nil || n.Symlink != "../usr/bin/x" {
		t.Errorf("opt/x is %+v, want a symlink to ../usr/bin/x", n)
	}
	for _, gone := range []string{"dev/null", "fifo", "out", "up"} {
		if tree.Nodes[gone] != nil {
			t.Errorf("got %s in the tree, want it left out", gone)
		}
	}
}

// FuzzAdd: for any input, a tree has only paths that a package may have.
func FuzzAdd(f *testing.F) {
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	if _, err := w.Create("a/b"); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(z.Bytes())
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "b"}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	for _, l := range [][]byte{image.Layer(image.File("d/a"), image.Link("b", "d/a")), image.Layer(image.File(".wh.d"), image.File(".wh..wh..opq"), image.Symlink("d", "b"))} {
		f.Add(image.Pack(image.Saved(image.Image{Layers: [][]byte{l, l}})))
		f.Add(image.Pack(image.Layout(image.Image{Layers: [][]byte{l, l}, Plain: true})))
	}
	f.Add(appImage(f, map[string]string{"AppRun": "x", "a/b": "y"}))
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		tree, _ := add(content)
		for p, n := range tree.Nodes {
			if p == "" || p[0] == '/' || strings.Contains("/"+p+"/", "/../") || n.Path != p {
				t.Errorf("got path %q of node %q, want a clean relative path, the same in both", p, n.Path)
			}
		}
	})
}
