package unpack

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"pault.ag/go/debian/deb"

	"github.com/lull/lull/agent/lib/manifest"
)

// Names of whiteouts (OCI image specification, "Image Layer Filesystem Changeset").
const (
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// layer is one layer of an image. Its tree has its own files only.
type layer struct {
	*Tree
	below  *Tree           // the layers before it
	gone   map[string]bool // paths of whiteouts: these are removed from the layers before
	opaque map[string]bool // directories whose content in the layers before is removed
}

// empty returns an empty tree that shares the bounds and the remarks of t.
func (t *Tree) empty() *Tree {
	return &Tree{Nodes: map[string]*Node{}, Mentions: t.Mentions, account: t.account}
}

// streamLimit bounds the bytes of a decompressed archive: its headers and padding need no more
// than its contents may have.
func streamLimit(l Limits) int64 { return 2*l.Bytes + 1<<20 }

// addLayer puts a layer over the tree. The digests of the file and of the archive in it are
// verified before the layer counts.
func (t *Tree) addLayer(a *archive, f layerFile, diff v1.Hash) error {
	return a.open(f.path, func(r io.Reader, _ int64) error {
		file, content := sha256.New(), sha256.New()
		in := bufio.NewReader(io.TeeReader(r, file))
		head, err := in.Peek(6)
		if err != nil && err != io.EOF {
			return err
		}
		z, err := deb.DecompressorFor(compression(head))(in)
		if err != nil {
			return err
		}
		defer z.Close()
		limited := &io.LimitedReader{R: z, N: streamLimit(t.limits)}
		plain := io.TeeReader(limited, content)
		l := &layer{Tree: t.empty(), below: t, gone: map[string]bool{}, opaque: map[string]bool{}}
		err = l.read(tar.NewReader(plain))
		if err == nil {
			_, err = io.Copy(io.Discard, plain) // padding
		}
		if limited.N <= 0 {
			return fmt.Errorf("it has more than %d bytes", streamLimit(t.limits))
		}
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
		if f.digest != (v1.Hash{}) {
			if err := sameDigest(file, f.digest); err != nil {
				return err
			}
		}
		if err := sameDigest(content, diff); err != nil {
			return err
		}
		return t.merge(l)
	})
}

func sameDigest(h hash.Hash, want v1.Hash) error {
	if got := hex.EncodeToString(h.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("its content has the digest sha256:%s, and the image names %s", got, want)
	}
	return nil
}

// read reads the archive of a layer. A layer may be empty.
func (l *layer) read(r *tar.Reader) error {
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n > 2*l.limits.Entries {
			return fmt.Errorf("it has more than %d entries", l.limits.Entries)
		}
		h.Name = fromRoot(h.Name)
		if hasWhiteout(h.Name) {
			err = l.whiteout(h.Name)
		} else if h.Typeflag == tar.TypeLink {
			err = l.link(h.Name, fromRoot(h.Linkname))
		} else {
			err = l.tarEntry(h, r)
		}
		if err != nil {
			return err
		}
	}
}

// fromRoot makes a name relative to the root of the image: some programs write absolute ones.
func fromRoot(name string) string { return strings.TrimLeft(name, "/") }

// hasWhiteout reports whether a component of a path has the name of a whiteout.
func hasWhiteout(p string) bool { return strings.Contains("/"+p, "/"+whiteoutPrefix) }

// whiteout records the removal of a path.
func (l *layer) whiteout(name string) error {
	p, err := clean(name)
	if err != nil {
		return err
	}
	dir, base := path.Dir(p), path.Base(p)
	target := strings.TrimPrefix(base, whiteoutPrefix)
	switch {
	case hasWhiteout(dir), strings.HasPrefix(target, whiteoutPrefix) && base != opaqueWhiteout:
		l.Remark("%s: it is metadata of a file system and is left out", p)
	case base == opaqueWhiteout:
		l.opaque[dir] = true
	case target == "" || target == "." || target == "..":
		return fmt.Errorf("the whiteout %.300q names no file", name)
	default:
		l.gone[path.Join(dir, target)] = true
	}
	return nil
}

// link adds another name of a file of this layer, or of one before it.
func (l *layer) link(name, target string) error {
	p, err := clean(target)
	if err != nil || l.Nodes[p] != nil || l.below.Nodes[p] == nil {
		return l.Link(name, target)
	}
	if l.below.Nodes[p].Content == 0 {
		return fmt.Errorf("the hard link %.300q leads to %.300q, which is no file", name, p)
	}
	same := *l.below.Nodes[p]
	return l.add(name, &same)
}

// removes reports whether a layer removes a path of the layers before.
func (l *layer) removes(p string) bool {
	for ; p != "."; p = path.Dir(p) {
		if l.gone[p] || l.opaque[path.Dir(p)] {
			return true
		}
	}
	return false
}

// merge puts a layer over the tree: first what it removes, then its files. A file
// replaces a directory with all that is in it; a directory replaces a file or a symlink.
func (t *Tree) merge(l *layer) error {
	for p, n := range l.Nodes {
		old := t.Nodes[p]
		switch {
		case old == nil:
		case n.Type != manifest.TypeDir && old.Type == manifest.TypeDir:
			l.gone[p] = true
		case n.Type == manifest.TypeDir && old.Type != manifest.TypeDir && !n.implied:
			t.drop(p)
		}
	}
	if len(l.gone)+len(l.opaque) > 0 {
		for p := range t.Nodes {
			if l.removes(p) {
				t.drop(p)
			}
		}
	}
	for _, p := range l.Paths() {
		n, old := l.Nodes[p], t.Nodes[p]
		switch {
		case old == nil || n.Type != manifest.TypeDir:
			t.drop(p)
			t.Nodes[p] = n
		case old.Type != manifest.TypeDir:
			return fmt.Errorf("it has files below %q, which is no directory", p)
		}
	}
	if len(t.Nodes) > t.limits.Entries {
		return fmt.Errorf("it has more than %d entries", t.limits.Entries)
	}
	return nil
}

// drop removes a path of the tree.
func (t *Tree) drop(p string) {
	if n := t.Nodes[p]; n != nil {
		t.kept -= int64(len(n.Kept))
		delete(t.Nodes, p)
	}
}
