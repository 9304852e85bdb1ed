package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) newCmd() *cobra.Command {
	var c conversion
	cmd := &cobra.Command{
		Use:   "new [FOLDER]",
		Short: "Write a lull.yaml for a directory",
		Long: `Writes FOLDER/lull.yaml, for the directory of an application's files. Name, icon,
programs, menu entries, bus names and services are derived from what is there: see
lull-convert(8). A lull.yaml that exists is not changed. Change what is wrong in it;
` + "`lull try FOLDER`" + ` runs the package, and ` + "`lull publish --check FOLDER`" + ` finds mistakes.`,
		Example: "  lull new ./notes --version 1.0\n  lull try ./notes",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			dir := "."
			if len(words) > 0 {
				dir = words[0]
			}
			return a.writeNew(cmd.Context(), dir, c)
		},
	}
	cmd.Flags().StringVar(&c.name, "name", "", "`name` of the package, if not the derived one")
	cmd.Flags().StringVar(&c.version, "version", "", "`version` of it, if not the derived one")
	return cmd
}

func (a *app) writeNew(ctx context.Context, dir string, c conversion) error {
	shown := output.OneLine(dir)
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return output.Error(errkind.Invalid, "cannot write a %s: %s is no directory", convert.SourceFile, shown)
	}
	path := filepath.Join(dir, convert.SourceFile)
	exists := output.Error(errkind.Exists, "cannot write %s: it exists already", output.OneLine(path))
	if _, err := os.Lstat(path); err == nil {
		return exists
	}
	var content []byte
	err := a.converted(ctx, []string{dir}, c, func(s *scratch) (err error) {
		content, err = os.ReadFile(filepath.Join(s.tree, convert.SourceFile))
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return exists
	}
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return output.Error(errkind.KindOf(err), "cannot write %s: %w", output.OneLine(path), err)
	}
	if a.JSON {
		return a.WriteJSON(newJSON{output.One, path, string(content)})
	}
	return a.Say(output.T("%s is written", output.OneLine(path)))
}

// newJSON is what `lull new` writes.
type newJSON struct {
	output.Document
	Path   string `json:"path"`
	Source string `json:"lull-yaml"`
}
