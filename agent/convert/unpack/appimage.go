package unpack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/squashfs"
)

// appImage reads an AppImage of type 2: an ELF program with a squashfs behind it
// (AppImage specification, "Type 2 image format").
func (t *Tree) appImage(in io.ReaderAt, size int64) error {
	head := make([]byte, 64)
	if _, err := in.ReadAt(head, 0); err != nil {
		return errors.New("it is a program, and no AppImage")
	}
	switch string(head[8:11]) {
	case "AI\x02":
	case "AI\x01":
		return errors.New("it is an AppImage of type 1, which its makers have to build again as type 2")
	default:
		return errors.New("it is a program, and no AppImage")
	}
	at, err := elfEnd(head)
	if err != nil {
		return err
	}
	if at <= 0 || at >= size {
		return errors.New("it is an AppImage without files")
	}
	disk, err := squashfs.Read(&image{SectionReader: io.NewSectionReader(in, at, size-at)}, size-at, 0, 0)
	if err != nil {
		return fmt.Errorf("its squashfs: %w", err)
	}
	if err := t.squash(disk, "", map[uint32]bool{}); err != nil {
		return err
	}
	t.App = t.Nodes["AppRun"]
	if t.App == nil {
		return errors.New("it is an AppImage without AppRun")
	}
	for _, p := range t.Paths() {
		if strings.HasSuffix(p, ".desktop") && path.Dir(p) == "." {
			t.Chosen = p
			break
		}
	}
	return nil
}

// elfEnd returns the size of an ELF file by its header: its section table is last (elf(5)).
func elfEnd(head []byte) (int64, error) {
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	switch head[4] {
	case 2:
		if off := order.Uint64(head[40:]); off < 1<<40 {
			return int64(off) + int64(order.Uint16(head[58:]))*int64(order.Uint16(head[60:])), nil
		}
	case 1:
		return int64(order.Uint32(head[32:])) + int64(order.Uint16(head[46:]))*int64(order.Uint16(head[48:])), nil
	}
	return 0, errors.New("its ELF header is damaged")
}

// squash adds a directory of a squashfs. A directory inode that is its own ancestor,
// or that has two names, is refused: directories have no hard links.
func (t *Tree) squash(disk *squashfs.FileSystem, dir string, seen map[uint32]bool) error {
	if strings.Count(dir, "/") >= maxDepth {
		return fmt.Errorf("the path %.300q is too deep", dir)
	}
	at := dir
	if at == "" {
		at = "."
	}
	list, err := disk.ReadDir(at)
	if err != nil {
		return fmt.Errorf("%.300q: %w", at, err)
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if strings.Contains(e.Name(), "/") {
			return fmt.Errorf("the name %.300q has a slash", e.Name())
		}
		p := path.Join(dir, e.Name())
		if _, err := clean(p); err != nil {
			return err
		}
		if err := t.squashEntry(disk, p, e, info, seen); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) squashEntry(disk *squashfs.FileSystem, p string, e fs.DirEntry, info fs.FileInfo, seen map[uint32]bool) error {
	st, ok := info.Sys().(*squashfs.StatT)
	if !ok {
		return fmt.Errorf("internal error: squashfs describes %q by a %T", p, info.Sys())
	}
	if _, capable := st.Xattrs["security.capability"]; capable {
		t.Remark("%s: its file capabilities are dropped", p)
	}
	mode := info.Mode()
	switch {
	case info.IsDir():
		if seen[st.Inode] {
			return fmt.Errorf("the directory %.300q has two names", p)
		}
		seen[st.Inode] = true
		if err := t.Dir(p); err != nil {
			return err
		}
		return t.squash(disk, p, seen)
	case mode&fs.ModeSymlink != 0:
		return t.Symlink(p, st.LinkTarget)
	case !mode.IsRegular():
		return t.other(p, mode)
	case info.Size() > t.limits.Bytes-t.bytes: // before the library allocates memory for it
		return fmt.Errorf("it has more than %d bytes of content, with %.300q", t.limits.Bytes, p)
	}
	opener, ok := e.(interface {
		Open() (filesystem.File, error)
	})
	if !ok {
		return fmt.Errorf("internal error: squashfs cannot open a %T", e)
	}
	f, err := opener.Open()
	if err != nil {
		return fmt.Errorf("%.300q: %w", p, err)
	}
	defer f.Close()
	return t.File(p, mode, info.Size(), f)
}

// image is a squashfs in a part of a file. Only ReadAt is used.
type image struct{ *io.SectionReader }

var _ backend.Storage = (*image)(nil)

// Stat implements backend.Storage.
func (*image) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// Sys implements backend.Storage.
func (*image) Sys() (*os.File, error) { return nil, errors.ErrUnsupported }

// Writable implements backend.Storage.
func (*image) Writable() (backend.WritableFile, error) { return nil, errors.ErrUnsupported }

// Path implements backend.Storage.
func (*image) Path() string { return "" }

// Close implements backend.Storage. The file belongs to the caller.
func (*image) Close() error { return nil }
