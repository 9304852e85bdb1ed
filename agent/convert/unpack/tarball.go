package unpack

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"pault.ag/go/debian/deb"
)

// maxDictionary bounds the dictionary of xz, in bytes: that of `xz -9` (xz(1)).
const maxDictionary = 64 << 20

func init() { deb.SetXZMaxDict(maxDictionary) }

// tarball reads a tar archive. Ext names its compression in the form of a file's extension.
func (t *Tree) tarball(r io.Reader, ext string) error {
	plain, err := deb.DecompressorFor(ext)(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	return t.tar(tar.NewReader(plain))
}

func (t *Tree) tar(r *tar.Reader) error {
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			if n == 0 {
				return fmt.Errorf("it is an empty archive, or none")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if n > 2*t.limits.Entries {
			return fmt.Errorf("it has more than %d entries", t.limits.Entries)
		}
		if err := t.tarEntry(h, r); err != nil {
			return err
		}
	}
}

func (t *Tree) tarEntry(h *tar.Header, r io.Reader) error {
	for key := range h.PAXRecords {
		if strings.HasSuffix(key, "security.capability") {
			t.Remark("%.200q: its file capabilities are dropped", h.Name)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return t.File(h.Name, h.FileInfo().Mode(), h.Size, r)
	case tar.TypeDir:
		return t.Dir(h.Name)
	case tar.TypeSymlink:
		return t.Symlink(h.Name, h.Linkname)
	case tar.TypeLink:
		return t.Link(h.Name, h.Linkname)
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeChar, tar.TypeBlock:
		return t.Other(h.Name, "device")
	case tar.TypeFifo:
		return t.Other(h.Name, "fifo")
	}
	return fmt.Errorf("the path %.300q is of the unknown type %q", h.Name, h.Typeflag)
}

// other leaves out an entry that is neither file nor directory nor symlink.
func (t *Tree) other(name string, mode fs.FileMode) error {
	switch {
	case mode&fs.ModeDevice != 0:
		return t.Other(name, "device")
	case mode&fs.ModeNamedPipe != 0:
		return t.Other(name, "fifo")
	}
	return t.Other(name, "special file")
}
