package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// Options are the options of Run.
type Options struct {
	Program string // path of lull-convert
	Name    string // of the package; "" to derive it
	Version string // likewise
	Start   Start  // nil means Child
	// Unattended leaves out what a user has to confirm: bus names, autostart files and
	// services.
	Unattended bool
	// Progress is called with the bytes of all files that are read, and with their number. Nil
	// means that it is not of interest.
	Progress func(done, total int64)
}

// Start starts the converter and returns when it has ended. The caller closes the files.
// When ctx ends, the converter is killed.
type Start func(ctx context.Context, argv []string, in, out, errs *os.File) error

// Bounds of the time of a conversion and of the converter's message.
const (
	maxTime = time.Hour
	maxSaid = 4 << 10 // bytes
)

// unprivileged is the user and group of a converter that root starts as a child. It is in the
// range that systemd keeps for units without a user of their own (systemd.exec(5),
// DynamicUser); no account is made there.
const unprivileged = 65519

// Run converts files into the empty directory dir, and returns the description. The first
// file names the package; the trees of the others are merged into it. The files are regular
// ones, open for reading at offset 0. Kind Invalid: they cannot be converted, for the reason
// in the text.
func Run(ctx context.Context, dir string, files []*os.File, o Options) (*Description, error) {
	running, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	name := filepath.Base(files[0].Name())
	in, args, err := joined(dir, files)
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot convert %s: %w", name, err)
	}
	if in != files[0] {
		defer in.Close()
	}
	argv := append([]string{o.Program, "--name=" + o.Name, "--version=" + o.Version, "--unattended=" + strconv.FormatBool(o.Unattended), "--"}, args...)
	start := o.Start
	if start == nil {
		start = Child
	}
	out, outEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	errs, errsEnd, err := os.Pipe()
	if err != nil {
		outEnd.Close()
		return nil, err
	}
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(errs, maxSaid))
		errs.Close() // a converter that writes more is ended by SIGPIPE
		said <- strings.TrimSpace(string(b))
	}()
	ended := make(chan error, 1)
	go func() {
		err := start(running, argv, in, outEnd, errsEnd)
		outEnd.Close()
		errsEnd.Close()
		ended <- err
	}()
	var total int64
	for i := 0; i < len(args); i += 2 {
		size, err := strconv.ParseInt(args[i], 10, 64)
		if err != nil {
			return nil, err
		}
		total += size
	}
	progress := func(read int64) {
		if o.Progress != nil {
			o.Progress(min(read, total), total)
		}
	}
	d, err := receive(dir, out, progress)
	if err == nil {
		progress(total)
	} else {
		cancel() // the rest of its output has no reader
	}
	failed, text := <-ended, <-said
	if ctx.Err() != nil {
		return nil, errkind.New(errkind.Interrupted, "cannot convert %s: %w", name, context.Cause(ctx))
	}
	if failed != nil && text != "" {
		return nil, errkind.New(errkind.Invalid, "cannot convert %s", text)
	}
	if err = errors.Join(err, failed); err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot convert %s: %w", name, err)
	}
	return d, nil
}

// joined returns one file with the contents of all, and their sizes and names as arguments.
// Several files are copied into an unnamed file beside dir.
func joined(dir string, files []*os.File) (in *os.File, args []string, err error) {
	in = files[0]
	if len(files) > 1 {
		if in, err = os.CreateTemp(filepath.Dir(dir), ".lull-joined-"); err == nil {
			err = os.Remove(in.Name())
		}
		if err != nil {
			return nil, nil, err
		}
	}
	for _, f := range files {
		info, err := f.Stat()
		switch {
		case err != nil:
		case !info.Mode().IsRegular():
			err = fmt.Errorf("%s is no regular file", filepath.Base(f.Name()))
		case len(files) > 1:
			var n int64
			if n, err = io.Copy(in, io.LimitReader(f, info.Size())); err == nil && n != info.Size() {
				err = fmt.Errorf("%s has changed meanwhile", filepath.Base(f.Name()))
			}
		}
		if err != nil {
			if in != files[0] {
				in.Close()
			}
			return nil, nil, err
		}
		args = append(args, strconv.FormatInt(info.Size(), 10), filepath.Base(f.Name()))
	}
	return in, args, nil
}

// Child starts the converter as a child of this process. Root's child has a user of its own, no
// terminal and, with CAP_SYS_ADMIN, a network without interfaces. A process that has root's
// terminal could type into it.
func Child(ctx context.Context, argv []string, in, out, errs *os.File) error {
	start := func(namespaces uintptr) (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = "/", []string{}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged},
				Cloneflags: namespaces,
				Setsid:     true,
			}
		}
		return cmd, cmd.Start()
	}
	cmd, err := start(syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC)
	if errors.Is(err, syscall.EPERM) { // root of a container, without CAP_SYS_ADMIN
		cmd, err = start(0)
	}
	if err != nil {
		return fmt.Errorf("cannot start the converter: %w", err)
	}
	return cmd.Wait()
}

// contents is the directory of the contents in the tree until they have paths. No package has
// an entry below it.
var contents = filepath.Join(manifest.Reserved, "contents")

// receive writes the contents of a stream into the directory contents of the tree, checks the
// description, and moves the contents to their paths.
func receive(dir string, r io.Reader, progress func(read int64)) (d *Description, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	defer func() {
		if e := root.RemoveAll(manifest.Reserved); err == nil {
			err = e
		}
	}()
	if err := root.MkdirAll(contents, 0o755); err != nil {
		return nil, err
	}
	sizes := []int64{0} // numbers begin at 1
	buffer := make([]byte, 256<<10)
	d, err = Receive(r, progress, func(c Content, r io.Reader) error {
		f, err := os.OpenFile(filepath.Join(dir, contentPath(c.Number)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(onlyWriter{f}, r, buffer)
		sizes = append(sizes, c.Size)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return nil, err
	}
	m := manifest.Meta{Launch: d.Launch}
	for _, e := range d.Entries {
		if e.Content < 0 || e.Content >= len(sizes) || (e.Content > 0) != (e.Type == "" || e.Type == manifest.TypeFile) {
			return nil, fmt.Errorf("the entry %.300q has no content of number %d", e.Path, e.Content)
		}
		checked := manifest.Entry{Path: e.Path, Type: e.Type, Exec: e.Exec, Symlink: e.Symlink, Size: sizes[e.Content]}
		if e.Content > 0 { // the publication hashes the content; here each needs a digest of its own
			checked.Blob = digest.Of([]byte(contentPath(e.Content)))
		}
		m.Entries = append(m.Entries, checked)
	}
	if _, err := m.Encode(); err != nil { // before any path of the package is created
		return nil, err
	}
	return d, place(root, d.Entries, len(sizes))
}

func contentPath(number int) string { return filepath.Join(contents, strconv.Itoa(number)) }

// onlyWriter hides ReadFrom, so that a copy uses the given buffer.
type onlyWriter struct{ io.Writer }

// place makes the tree. A content with several paths is copied to all but the last, because
// publishers and people may change one of them. There are fewer than contents contents.
func place(root *os.Root, entries []Entry, contents int) error {
	uses := make([]int, contents)
	for _, e := range entries {
		uses[e.Content]++
	}
	made := "."
	for _, e := range entries {
		if up := filepath.Dir(e.Path); up != made {
			if err := root.MkdirAll(up, 0o755); err != nil {
				return err
			}
			made = up
		}
		var err error
		switch uses[e.Content]--; {
		case e.Type == manifest.TypeDir:
			err = root.MkdirAll(e.Path, 0o755)
		case e.Type == manifest.TypeSymlink:
			err = root.Symlink(e.Symlink, e.Path)
		case uses[e.Content] > 0:
			err = copyTo(root, e)
		default:
			err = root.Rename(contentPath(e.Content), e.Path)
			if err == nil && e.Exec {
				err = root.Chmod(e.Path, 0o755)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyTo(root *os.Root, e Entry) error {
	perm := os.FileMode(0o644)
	if e.Exec {
		perm = 0o755
	}
	in, err := root.Open(contentPath(e.Content))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(e.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in) // by copy_file_range(2)
	return errors.Join(err, out.Chmod(perm), out.Close())
}
