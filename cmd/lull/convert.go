package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/convert/check"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/tempdir"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// conversion has the flags of a verb that makes packages from files.
type conversion struct {
	show, check            bool
	overlay, name, version string
}

func (c *conversion) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.show, "show", false, "print the lull.yaml that is derived of a file, and publish nothing")
	cmd.Flags().BoolVar(&c.check, "check", false, "print what of a package will not work on this machine, and publish nothing")
	cmd.Flags().StringVar(&c.overlay, "with", "", "`file` like a lull.yaml, whose keys replace those of the package's")
	cmd.Flags().StringVar(&c.name, "name", "", "`name` of a package that is made of a file")
	cmd.Flags().StringVar(&c.version, "version", "", "`version` of a package that is made of a file")
}

// converts reports whether a package must be made from the sources. Directories with a
// lull.yaml need no conversion.
func converts(sources []string) bool {
	if isSource(sources[0]) && (len(sources) == 1 || areSources(sources)) {
		return false
	}
	_, err := os.Stat(sources[0])
	return len(sources) > 1 || err == nil
}

// isSource reports whether path is a directory with a lull.yaml.
func isSource(path string) bool {
	_, err := os.Lstat(filepath.Join(path, convert.SourceFile))
	return err == nil
}

// areSources reports whether all of several words are directories with a lull.yaml.
func areSources(words []string) bool {
	return len(words) > 1 && !slices.ContainsFunc(words, func(dir string) bool { return !isSource(dir) })
}

func isRegular(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// scratch is a package source that was made from files.
type scratch struct {
	*tempdir.Dir
	tree  string
	found *convert.Description
}

// named makes an error name the source instead of the scratch directory.
func (s *scratch) named(err error, source string) error {
	if s == nil || err == nil {
		return err
	}
	text := strings.NewReplacer(s.tree+"/", "", s.tree, output.OneLine(source)).Replace(err.Error())
	if text == err.Error() {
		return err
	}
	return &errkind.Error{Kind: errkind.KindOf(err), Text: text, Hint: errkind.HintOf(err), Err: err}
}

// converted makes a package source from files and directories, calls use with it, deletes it,
// and prints the remarks about it. Apart from progress on a terminal, nothing is printed before
// that: a closed pipe ends this process at once.
func (a *app) converted(ctx context.Context, sources []string, c conversion, use func(s *scratch) error) (err error) {
	program, err := converter()
	if err != nil {
		return err
	}
	dir, err := tempdir.Make("lull-convert-")
	if err != nil {
		return err
	}
	s := &scratch{Dir: dir, tree: filepath.Join(dir.Path(), "package")}
	show := a.terminalProgress()
	name := filepath.Base(sources[0])
	progress := func(done, total int64) {
		show.Update(bus.AgentPath, filesProgress(name, "convert", uint64(done), uint64(total)))
	}
	err = s.convert(ctx, program, sources, c, progress)
	show.Close()
	if err == nil {
		err = use(s)
	}
	err = errors.Join(err, s.Remove())
	if s.found == nil {
		return err
	}
	for _, r := range s.found.Remarks {
		a.Warn(r, "")
	}
	for _, script := range s.found.Scripts {
		a.Warn(output.T("the maintainer script %s does not run", script), "")
	}
	if len(s.found.Needs) > 0 {
		a.Warn(output.T("it needs these packages of its distribution, which are not in it: %s", strings.Join(s.found.Needs, ", ")), "")
	}
	return err
}

// convert fills the directory.
func (s *scratch) convert(ctx context.Context, program string, sources []string, c conversion, progress func(done, total int64)) error {
	var files []*os.File
	for _, source := range sources {
		f, err := s.open(source)
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	err := os.Mkdir(s.tree, 0o755)
	if err != nil {
		return err
	}
	s.found, err = convert.Run(ctx, s.tree, files, convert.Options{Program: program, Name: c.name, Version: c.version, Progress: progress})
	if err != nil {
		return err
	}
	return s.found.WriteSource(s.tree)
}

// open opens a source. A directory is opened as a tar archive.
func (s *scratch) open(source string) (*os.File, error) {
	f, err := openInput(source)
	if err != nil {
		return nil, output.Error(errkind.Invalid, "cannot convert %s: %w", output.OneLine(source), err)
	}
	if fi, err := f.Stat(); err != nil || !fi.IsDir() {
		return f, err
	}
	defer f.Close()
	path, err := filepath.Abs(source)
	if err != nil {
		return nil, err
	}
	into, err := os.MkdirTemp(s.Path(), "directory-")
	if err != nil {
		return nil, err
	}
	archive, err := os.OpenFile(filepath.Join(into, filepath.Base(path)+directorySuffix), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = writeTar(archive, source)
	if err == nil {
		_, err = archive.Seek(0, io.SeekStart)
	}
	if err != nil {
		archive.Close()
		return nil, output.Error(errkind.Invalid, "cannot convert %s: %w", output.OneLine(source), err)
	}
	return archive, nil
}

// showConverted prints the lull.yaml that is derived from files.
func (a *app) showConverted(ctx context.Context, sources []string, c conversion) error {
	if !converts(sources) {
		return output.Error(errkind.Usage, "cannot show %s: no package can be made of it", output.OneLine(sources[0]))
	}
	var b []byte
	err := a.converted(ctx, sources, c, func(s *scratch) (err error) {
		b, err = os.ReadFile(filepath.Join(s.tree, convert.SourceFile))
		return err
	})
	if err != nil {
		return err
	}
	text := string(b)
	if a.JSON {
		return a.WriteJSON(derivedJSON{output.One, text})
	}
	for l := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if err := a.SayWhole(l); err != nil {
			return err
		}
	}
	return nil
}

// checkPackage prints the parts of a package that will not work on this machine. A finding is
// an error.
func (a *app) checkPackage(ctx context.Context, sources []string, c conversion) error {
	var found []check.Finding
	look := func(s *scratch) error {
		tree := sources[0]
		if s != nil {
			tree = s.tree
		}
		launch, err := publish.Describe(tree, c.overlay)
		if err == nil {
			found, err = check.Tree(tree, "/", launch)
		}
		if err != nil {
			return output.Doing(output.T("check %s", output.OneLine(sources[0])), s.named(err, sources[0]))
		}
		return nil
	}
	var err error
	if converts(sources) {
		err = a.converted(ctx, sources, c, look)
	} else {
		err = look(nil)
	}
	if err != nil {
		return err
	}
	doc := checkedJSON{output.One, []faultJSON{}}
	for _, f := range found {
		doc.Findings = append(doc.Findings, faultJSON(f))
		if a.JSON {
			continue
		}
		if err := a.SayWhole(output.OneLine(f.String())); err != nil {
			return err
		}
	}
	switch {
	case a.JSON:
		err = a.WriteJSON(doc)
	case len(found) == 0:
		err = a.Say(output.T("nothing was found that will not work on this machine"))
	}
	if err == nil && len(found) > 0 {
		err = output.Error(errkind.Failed, "cannot say that %s will work: see above", output.OneLine(sources[0]))
	}
	return err
}

// converter finds lull-convert: beside the launcher.
func converter() (string, error) {
	path, err := launcher()
	if err != nil {
		return "", err
	}
	path = filepath.Join(filepath.Dir(path), "lull-convert")
	if _, err := os.Stat(path); err != nil {
		return "", output.Error(errkind.NotFound, "cannot find the converter: %w", err).WithHint("it belongs beside lull-run")
	}
	return path, nil
}

// derivedJSON is what `lull publish --show` writes.
type derivedJSON struct {
	output.Document
	Source string `json:"lull-yaml"`
}

// checkedJSON is what `lull publish --check` writes.
type checkedJSON struct {
	output.Document
	Findings []faultJSON `json:"findings"`
}

// faultJSON is something that will not work. No line means that there is none.
type faultJSON struct {
	Path string `json:"path"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text"`
}
