package vacancy

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/manifest"
)

// MaxFiles bounds the files of one package that are sealed; each costs a descriptor.
// Of a package with more, the executable ones come first.
const MaxFiles = 8192

// Executable lists the regular files of a package's tree that a process can execute or
// map as code: those with the execute bit, and those whose content is ELF, as shared
// libraries are. A file that cannot be read is taken to be one. The trees of
// subpackages are not part of dir, and neither is the store's own directory in it.
func Executable(dir string) ([]string, error) {
	var paths, libraries []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && path == filepath.Join(dir, manifest.Reserved):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		fi, err := d.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case fi.Mode()&0o111 != 0:
			paths = append(paths, path)
		case fi.Size() >= elfHeader && isELF(path):
			libraries = append(libraries, path)
		}
		return nil
	})
	paths = append(paths, libraries...)
	return paths[:min(len(paths), MaxFiles)], err
}

// elfHeader is the size in bytes of the smallest ELF file: elf(5), Elf32_Ehdr.
const elfHeader = 52

func isELF(path string) bool {
	fd, err := openAgain(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	var magic [4]byte
	n, err := unix.Pread(fd, magic[:], 0)
	return err != nil || n == len(magic) && bytes.Equal(magic[:], []byte("\x7fELF"))
}

// FilesOf returns the inodes that a process executes, has mapped, or has open, as an
// interpreter has its script.
func FilesOf(pid int) (map[Inode]bool, error) {
	set := map[Inode]bool{}
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	if in, err := statInode(dir + "exe"); err == nil {
		set[in] = true
	}
	err := eachMapping(dir, func(in Inode, _ string) { set[in] = true })
	return set, errors.Join(err, eachDescriptor(dir, func(in Inode) { set[in] = true }))
}
