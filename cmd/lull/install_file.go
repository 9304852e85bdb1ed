package main

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// fileFlags has the flags of install for files.
type fileFlags struct {
	name, version, with string
	older, yes          bool
}

// fileFlagNames are their names.
var fileFlagNames = []string{"name", "version", "with", "older", "yes"}

func (f *fileFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "name", "", "`name` of the package that is made of a file, if not the derived one")
	cmd.Flags().StringVar(&f.version, "version", "", "`version` of it, if not the derived one")
	cmd.Flags().StringVar(&f.with, "with", "", "`file` like a lull.yaml, whose keys replace the derived ones")
	cmd.Flags().BoolVar(&f.older, "older", false, "also a file with a version that is older than the installed one")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "confirm the services, hooks and bus names of a file")
}

// suffixes are the name extensions of files that can be installed.
var suffixes = []string{".deb", ".appimage", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.bz2", ".tbz2"}

// isFile reports whether a word names a file and no package: it has a slash, or is a file in
// the working directory with one of the suffixes.
func isFile(word string) bool {
	if strings.Contains(word, "/") || word == "." || word == ".." {
		return true
	}
	known := slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(strings.ToLower(word), s) })
	fi, err := os.Stat(word)
	return known && err == nil && fi.Mode().IsRegular()
}

// filesAmong reports whether the words are files. Files and names together are an error.
func filesAmong(cmd *cobra.Command, words []string) (yes bool, err error) {
	n := 0
	for _, w := range words {
		if isFile(w) {
			n++
		}
	}
	switch {
	case n > 0 && n < len(words):
		return false, output.Error(errkind.Usage, "cannot install files and names together").WithHint("files become one package; install the names by themselves")
	case n > 0:
		for _, flag := range []string{"channel", "repository", "now"} {
			if cmd.Flags().Changed(flag) {
				return false, output.Error(errkind.Usage, "cannot install a file with --%s: that flag is for packages of repositories", flag)
			}
		}
		return true, nil
	}
	for _, flag := range fileFlagNames {
		if cmd.Flags().Changed(flag) {
			return false, output.Error(errkind.Usage, "cannot install a package of a repository with --%s: that flag is for files", flag).
				WithHint("a file has a slash in it: ./%s", output.OneLine(words[0]))
		}
	}
	return false, nil
}

// installFiles makes a package from files and installs it.
func (a *app) installFiles(ctx context.Context, w waitFlags, words []string, key string, f fileFlags) error {
	o := bus.InstallFilesOptions{Name: f.name, Version: f.version, Key: key, Older: f.older}
	if f.with != "" {
		b, err := os.ReadFile(f.with)
		if err != nil {
			return output.Error(errkind.Invalid, "cannot read %s: %w", output.OneLine(f.with), err)
		}
		o.LullYaml = string(b)
	}
	var files []*os.File
	for _, word := range words {
		file, err := openFile(word)
		if err != nil {
			return err
		}
		defer file.Close()
		files = append(files, file)
	}
	return a.refreshing(ctx, w, false, func(ctx context.Context, _ *agent) ([]dbus.ObjectPath, error) {
		ag, err := a.dialFDs(ctx)
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, file := range files {
			id, err := ag.sendFile(ctx, file)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		var path dbus.ObjectPath
		var made bus.ConvertedPackage
		install := func() (err error) {
			path, made, err = ag.manager.InstallFiles(ctx, ids, o)
			return err
		}
		name := filepath.Base(words[0])
		err = a.making(ctx, ag, name, a.Progress(), install)
		if err == nil {
			a.remark(made)
		}
		if err == nil && made.Confirm != "" {
			if err := a.confirm(made, f.yes); err != nil {
				return nil, err
			}
			o.Confirm = made.Confirm
			err = a.making(ctx, ag, name, a.Progress(), install)
			if err == nil && made.Confirm != "" {
				err = output.Error(errkind.Conflict, "cannot install %s: what it asks for has changed meanwhile", made.Instance)
			}
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, output.Error(errkind.Interrupted, "cannot install %s: interrupted", output.OneLine(words[0])).
				WithHint("`lull pending` shows it if the installation has begun already")
		case err != nil:
			return nil, withPaths(err, files)
		case path == "/":
			return nil, a.already(output.T("%[1]s %[2]s is already installed", made.Instance, made.Version))
		}
		return []dbus.ObjectPath{path}, nil
	})
}

// making calls do, which makes a package of files, and shows the progress of that. It closes
// show.
func (a *app) making(ctx context.Context, ag *agent, name string, show output.Progress, do func() error) error {
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sub, err := bus.Subscribe(asking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		show.Close()
		return err
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		for sig := range sub.C {
			if p, ok := bus.ParseManagerFilesProgress(sig); ok { // it is for this connection
				show.Update(bus.AgentPath, filesProgress(name, p.Step, p.Done, p.Total))
			}
		}
	}()
	err = do()
	sub.Close()
	<-shown
	show.Close()
	return err
}

// filesProgress returns the progress of a package that is made of files as that of a refresh.
func filesProgress(name, step string, done, total uint64) bus.RefreshProperties {
	return bus.RefreshProperties{Instance: name, State: "preparing", Step: step, BytesDone: done, BytesTotal: total}
}

// openFile opens a file for installation.
func openFile(name string) (*os.File, error) {
	f, err := openInput(name)
	if err != nil {
		return nil, output.Error(errkind.Invalid, "cannot install %s: %w", output.OneLine(name), err)
	}
	return f, nil
}

// openInput opens a regular file or a directory. A fifo does not block.
func openInput(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular() && !fi.IsDir():
		err = errors.New(output.T("it is neither a regular file nor a directory"))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// directorySuffix is the suffix of the agent's name for a directory that is sent.
const directorySuffix = ".tar"

// withPaths makes an error of the agent name the directories of the command line.
func withPaths(err error, files []*os.File) error {
	text := err.Error()
	for _, f := range files {
		path, aerr := filepath.Abs(f.Name())
		if fi, serr := f.Stat(); aerr == nil && serr == nil && fi.IsDir() {
			text = strings.ReplaceAll(text, filepath.Base(path)+directorySuffix, output.OneLine(f.Name()))
		}
	}
	if text == err.Error() {
		return err
	}
	return &errkind.Error{Kind: errkind.KindOf(err), Text: text, Hint: errkind.HintOf(err), Err: err}
}

// sendFile sends a file, or a directory as a tar archive, to the agent. If the agent stops to
// read, the next call returns the reason.
func (ag *agent) sendFile(ctx context.Context, f *os.File) (id string, err error) {
	before, err := f.Stat()
	if err != nil {
		return "", err
	}
	name := f.Name()
	if before.IsDir() {
		if name, err = filepath.Abs(name); err != nil {
			return "", err
		}
		name += directorySuffix
	}
	to, id, err := ag.manager.SendFile(ctx, filepath.Base(name))
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { to.Close() })
	defer stop()
	if before.IsDir() {
		err = writeTar(to, f.Name())
	} else {
		_, err = io.Copy(to, f)
	}
	if errors.Is(err, syscall.EPIPE) {
		err = nil
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return "", output.Error(errkind.KindOf(err), "cannot read %s: %w", output.OneLine(f.Name()), err)
	}
	after, err := f.Stat()
	if err != nil {
		return "", err
	}
	if before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) {
		return "", output.Error(errkind.Invalid, "cannot install %s: it has changed meanwhile", output.OneLine(f.Name()))
	}
	return id, nil
}

// resolveFile sends a file for one run, and returns the package and its name. On a terminal it
// shows the progress.
func (a *app) resolveFile(ctx context.Context, ag *agent, word string) (dir, lease *os.File, hash, name string, err error) {
	f, err := openFile(word)
	if err != nil {
		return nil, nil, "", "", err
	}
	defer f.Close()
	id, err := ag.sendFile(ctx, f)
	if err != nil {
		return nil, nil, "", "", err
	}
	err = a.making(ctx, ag, filepath.Base(word), a.terminalProgress(), func() (err error) {
		dir, lease, hash, name, _, err = ag.manager.ResolveFiles(ctx, []string{id}, bus.ResolveFilesOptions{})
		return err
	})
	return dir, lease, hash, name, err
}

// remark prints the remarks about a package that was made from files.
func (a *app) remark(p bus.ConvertedPackage) {
	for _, r := range p.Remarks {
		a.Warn(r, "")
	}
	for _, s := range p.Scripts {
		a.Warn(output.T("the maintainer script %s does not run", s), "")
	}
	if len(p.Needs) > 0 {
		a.Warn(output.T("it needs these packages of its distribution, which are not in it: %s", strings.Join(p.Needs, ", ")), "")
	}
}

// confirm shows the rights of a package, and asks the user on a terminal.
func (a *app) confirm(p bus.ConvertedPackage, yes bool) error {
	a.Prompt(output.T("%s asks for these rights:\n", output.OneLine(p.Instance+" "+p.Version)))
	for _, r := range p.Rights {
		a.Prompt("  " + output.OneLine(r) + "\n")
	}
	if yes {
		return nil
	}
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return output.Error(errkind.NotPermitted, "cannot install %s: its rights are not confirmed", p.Instance).
			WithHint("--yes confirms them")
	}
	a.Prompt(output.T("Install it? [y/N] "))
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if output.Yes(answer) {
		return nil
	}
	return output.Error(errkind.Interrupted, "cannot install %s: its rights were not confirmed", p.Instance)
}

// writeTar writes a directory as a tar archive. The same files make the same archive. No
// symlink is followed, even in a race.
func writeTar(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tw := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		h := &tar.Header{Name: path, Mode: 0o644, Format: tar.FormatPAX}
		switch d.Type() {
		case fs.ModeDir:
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, path+"/", 0o755
			return tw.WriteHeader(h)
		case fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = root.Readlink(path); err != nil {
				return err
			}
			return tw.WriteHeader(h)
		case 0:
			return tarFile(tw, root, h)
		}
		return output.Error(errkind.Invalid, "%s is neither a file, a directory nor a symlink", path)
	})
	if err == nil {
		err = tw.Close()
	}
	return err
}

// tarFile writes one regular file.
func tarFile(tw *tar.Writer, root *os.Root, h *tar.Header) error {
	f, err := root.OpenFile(h.Name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return errors.New(output.T("%s has changed meanwhile", h.Name))
	}
	h.Typeflag, h.Size = tar.TypeReg, fi.Size()
	if fi.Mode().Perm()&0o111 != 0 {
		h.Mode = 0o755
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, h.Size))
	if err == nil && n != h.Size {
		err = errors.New(output.T("%s has changed meanwhile", h.Name))
	}
	return err
}
