package main

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
)

// maxTried bounds the places of tried packages. The oldest are removed.
const maxTried = 20

func (a *app) tryCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "try FOLDER [ARGS...]",
		Short: "Run a package from its directory",
		Long: `Runs the package in FOLDER as if it were installed, without an agent, a copy or a
build: the next run has every change. One that is installed stays as it is, and may
run beside it. The data is in ~/.local/share/lull-try/NAME, and stays for the next
run. Services and hooks do not run, and nothing is exported.`,
		Example: "  lull try ./notes\n  lull try --app notes-export ./notes --help",
		Args:    args(1, -1),
		RunE: func(_ *cobra.Command, words []string) error {
			return a.try(words[0], name, words[1:])
		},
	}
	cmd.Flags().StringVar(&name, "app", "", "`name` of the program, if the package has several")
	cmd.Flags().SetInterspersed(false) // the words after FOLDER are the application's
	return cmd
}

// try becomes the launcher of the package in a directory.
func (a *app) try(dir, app string, words []string) error {
	shown := output.OneLine(dir)
	l, err := publish.Describe(dir, "")
	if errors.Is(err, fs.ErrNotExist) {
		err = output.Error(errkind.NotFound, "it has no %s", convert.SourceFile).WithHint("`lull new %s` writes one", shown)
	}
	if err != nil {
		return output.Doing(output.T("try %s", shown), err)
	}
	path, err := launcher()
	if err != nil {
		return err
	}
	root, pkg, err := a.tryPlace(dir, l)
	if err != nil {
		return output.Error(errkind.KindOf(err), "cannot try %s: %w", shown, err)
	}
	folder, err := dataHome()
	if err != nil {
		return output.Error(errkind.Failed, "cannot try %s: %w", shown, err)
	}
	argv := []string{path, "--root=" + root, "--package=" + pkg.String(), "--folder=" + filepath.Join(folder, "lull-try", l.Name)}
	if app != "" {
		argv = append(argv, "--app="+app)
	}
	argv = append(append(argv, "--", l.Name), words...)
	err = syscall.Exec(path, argv, os.Environ())
	return output.Error(errkind.Failed, "cannot try %s: %s: %w", shown, path, err)
}

// dataHome returns the directory of the user's data (XDG Base Directory Specification).
func dataHome() (string, error) {
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return d, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local/share"), err
}

// tryPlace makes a root for the launcher with one package, whose entries are symlinks to those
// of dir. It is in the user's cache, and stays: the program has paths of it.
func (a *app) tryPlace(dir string, l *manifest.Launch) (root string, pkg digest.Digest, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", pkg, err
	}
	launch, err := l.Encode()
	if err != nil {
		return "", pkg, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", pkg, err
	}
	h := digest.New()
	fmt.Fprintf(h, "%s\x00%s\x00", dir, launch)
	for _, e := range entries {
		fmt.Fprintf(h, "%s\x00", e.Name())
	}
	pkg = digest.From(h)
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", pkg, err
	}
	root = filepath.Join(cache, "lull-try", fmt.Sprintf("%x", sha256.Sum256([]byte(dir)))[:16])
	packages := filepath.Join(root, "packages")
	tree := filepath.Join(packages, pkg.String())
	if _, err := os.Lstat(tree); err == nil {
		return root, pkg, touch(tree)
	}
	if err := os.MkdirAll(packages, 0o700); err != nil {
		return "", pkg, err
	}
	made, err := os.MkdirTemp(packages, ".new-")
	if err != nil {
		return "", pkg, err
	}
	defer os.RemoveAll(made)
	for _, e := range entries {
		if e.Name() != manifest.Reserved {
			err = errors.Join(err, os.Symlink(filepath.Join(dir, e.Name()), filepath.Join(made, e.Name())))
		}
	}
	own := filepath.Join(made, manifest.Reserved)
	err = errors.Join(err, os.MkdirAll(filepath.Join(own, "sub"), 0o700), os.WriteFile(filepath.Join(own, "launch.json"), launch, 0o600))
	for name, sub := range l.Subpackages {
		target := filepath.Join(cmp.Or(a.root, "/var/lib/lull"), "packages", sub.String())
		if _, serr := os.Stat(target); serr != nil {
			err = errors.Join(err, fmt.Errorf("its subpackage %s is not in the store: %w", name, serr))
		}
		err = errors.Join(err, os.Symlink(target, filepath.Join(own, "sub", name)))
	}
	if err != nil {
		return "", pkg, err
	}
	if err := os.Rename(made, tree); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", pkg, err
	}
	return root, pkg, pruneTried(packages)
}

// pruneTried removes the oldest places of a directory beyond maxTried.
func pruneTried(packages string) error {
	entries, err := os.ReadDir(packages)
	if err != nil || len(entries) <= maxTried {
		return err
	}
	age := func(e os.DirEntry) int64 {
		fi, err := e.Info()
		if err != nil {
			return 0
		}
		return fi.ModTime().UnixNano()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(age(b), age(a)) })
	for _, e := range entries[maxTried:] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(packages, e.Name())))
	}
	return err
}

// touch sets the time of a place's last use.
func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}
