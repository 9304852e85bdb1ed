package launch

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxInterpreterLine is what the kernel reads of a script's first line (execve(2)), in bytes.
const maxInterpreterLine = 256

// interpreted returns the command of a script whose interpreter is in its package and not where
// the kernel looks for it: on the host, or in the runtime of the package. Of another program it returns the
// command as it is.
func (l *launch) interpreted(path string, argv []string) (string, []string) {
	f, err := os.Open(path)
	if err != nil {
		return path, argv // exec reports the reason
	}
	defer f.Close()
	head := make([]byte, maxInterpreterLine)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return path, argv
	}
	line, ok := bytes.CutPrefix(head[:n], []byte("#!"))
	if !ok {
		return path, argv
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	// As execve(2): the rest of the line is one argument.
	interpreter, option, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	if _, err := os.Stat(filepath.Join("/", l.root, interpreter)); !filepath.IsAbs(interpreter) || !errors.Is(err, fs.ErrNotExist) {
		return path, argv
	}
	for _, inside := range []string{interpreter, filepath.Join("/usr", interpreter)} {
		own := filepath.Join(l.dirOf(l.ran), inside)
		if fi, err := os.Stat(own); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			command := []string{own}
			if option = strings.TrimSpace(option); option != "" {
				command = append(command, option)
			}
			return own, slices.Concat(command, []string{path}, argv[1:])
		}
	}
	return path, argv
}
