package launch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// cannotExecute is the error about a program that the kernel has refused to execute.
// execve(2) has the same number for many causes; this finds the one.
func cannotExecute(path string, err error) error {
	cause, hint := whyNotExecuted(path, err)
	if cause == "" {
		return errkind.New(errkind.KindOf(err), "cannot execute %s: %w", path, err)
	}
	e := errkind.New(errkind.KindOf(err), "cannot execute %s: %s: %w", path, cause, err)
	e.Hint = hint
	return e
}

func whyNotExecuted(path string, err error) (cause, hint string) {
	switch {
	case errors.Is(err, unix.EACCES):
		for _, file := range []string{path, interpreterOf(path)} {
			if on := noexec(file); on != "" {
				return errkind.Text("%s is on a file system that is mounted noexec", file), errkind.Text("mount %s without noexec, or have the store elsewhere (lulld --root)", on)
			}
		}
		in := interpreterOf(path)
		if fi, serr := os.Stat(in); in != "" && serr == nil && (!fi.Mode().IsRegular() || unix.Access(in, unix.X_OK) != nil) {
			return errkind.Text("its interpreter %s cannot be executed", in), ""
		}
	case errors.Is(err, unix.ENOENT):
		in := interpreterOf(path)
		if in == "" {
			break
		}
		if name, crlf := strings.CutSuffix(in, "\r"); crlf {
			return errkind.Text("its first line ends with a carriage return, so that the kernel uses an interpreter called \"%s\\r\"", name),
				errkind.Text("the script has the line ends of Windows; its packager has to convert it")
		}
		if _, serr := os.Stat(in); serr != nil {
			return errkind.Text("its interpreter %s is not there", in), errkind.Text("install what has %s; or its packager has to include it", in)
		}
	case errors.Is(err, unix.ENOEXEC):
		return errkind.Text("it is no program for this machine, and no script that begins with \"#!\""), ""
	}
	return "", ""
}

// noexec is the mount point of path's file system, if it is mounted noexec;
// empty if it is not, or if that is unknown.
func noexec(path string) string {
	var fs unix.Statfs_t
	if path == "" || unix.Statfs(path, &fs) != nil || fs.Flags&unix.ST_NOEXEC == 0 {
		return ""
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	on := path
	for on != "/" {
		var up unix.Stat_t
		if unix.Stat(filepath.Dir(on), &up) != nil || up.Dev != st.Dev {
			break
		}
		on = filepath.Dir(on)
	}
	return on
}

// interpreterOf is the program that the kernel executes for a file: that of
// the line "#!" (execve(2)), or the dynamic loader of an ELF file (elf(5),
// PT_INTERP); empty if there is none.
func interpreterOf(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 256) // what the kernel reads (BINPRM_BUF_SIZE)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return ""
	}
	head = head[:n]
	if line, script := bytes.CutPrefix(head, []byte("#!")); script {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		name := strings.TrimLeft(string(line), " \t")
		name, _, _ = strings.Cut(name, " ")
		name, _, _ = strings.Cut(name, "\t")
		return name
	}
	return loaderOf(f, head)
}

// loaderOf reads PT_INTERP of a little-endian 64-bit ELF file.
func loaderOf(f io.ReaderAt, head []byte) string {
	const elf64LittleEndian, ptInterp, entry = "\x7fELF\x02\x01", 3, 56
	if len(head) < 64 || !bytes.HasPrefix(head, []byte(elf64LittleEndian)) {
		return ""
	}
	at := binary.LittleEndian.Uint64(head[32:])
	count := binary.LittleEndian.Uint16(head[56:])
	for i := range uint64(count) {
		b := make([]byte, entry)
		if _, err := f.ReadAt(b, int64(at+i*entry)); err != nil {
			return ""
		}
		if binary.LittleEndian.Uint32(b) != ptInterp {
			continue
		}
		name := make([]byte, min(binary.LittleEndian.Uint64(b[32:]), unix.PathMax))
		if _, err := f.ReadAt(name, int64(binary.LittleEndian.Uint64(b[8:]))); err != nil {
			return ""
		}
		return string(bytes.TrimRight(name, "\x00"))
	}
	return ""
}
