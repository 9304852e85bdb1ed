package unpack

import (
	"archive/zip"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// zip reads a zip file. Two entries of one name are refused: programs differ in which one
// they use.
func (t *Tree) zip(in io.ReaderAt, size int64) error {
	r, err := zip.NewReader(in, size)
	if err != nil {
		return err
	}
	if len(r.File) > t.limits.Entries {
		return fmt.Errorf("it has more than %d entries", t.limits.Entries)
	}
	seen := map[string]bool{}
	for _, f := range r.File {
		if seen[f.Name] {
			return fmt.Errorf("the path %.300q is there twice", f.Name)
		}
		seen[f.Name] = true
		if err := t.zipEntry(f); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) zipEntry(f *zip.File) error {
	mode := f.Mode()
	switch {
	case mode.IsDir() || strings.HasSuffix(f.Name, "/"):
		return t.Dir(f.Name)
	case mode&fs.ModeSymlink == 0 && !mode.IsRegular():
		return t.other(f.Name, mode)
	case f.UncompressedSize64 > uint64(t.limits.Bytes):
		return fmt.Errorf("it has more than %d bytes of content, with %.300q", t.limits.Bytes, f.Name)
	}
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("%.300q: %w", f.Name, err)
	}
	defer r.Close()
	if mode&fs.ModeSymlink != 0 {
		target, err := io.ReadAll(io.LimitReader(r, maxTarget+1))
		if err != nil {
			return fmt.Errorf("%.300q: %w", f.Name, err)
		}
		return t.Symlink(f.Name, string(target))
	}
	return t.File(f.Name, mode, int64(f.UncompressedSize64), r)
}
