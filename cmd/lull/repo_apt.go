package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/apt"
	"github.com/lull/lull/cmd/lull/output"
)

// aptFlags has the flags of `lull repo add` for a source of apt.
type aptFlags struct{ line, name string }

func (f *aptFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.line, "apt", "", "follow packages of an apt repository: a `line` of a sources.list, or a .sources file")
	cmd.Flags().StringVar(&f.name, "name", "", "with --apt: `name` of the repository, if not that of the first package")
}

// source reads the line of a source, or a .sources file. At most one of signedBy, a path, and
// keys has a value.
func (f *aptFlags) source() (source repo.Apt, signedBy string, keys []byte, err error) {
	if strings.HasPrefix(strings.TrimSpace(f.line), "deb ") || filepath.Ext(f.line) != ".sources" {
		source, signedBy, err = apt.ParseLine(f.line)
		return source, signedBy, nil, err
	}
	file, err := openInput(f.line)
	if err != nil {
		return source, "", nil, output.Error(errkind.Invalid, "cannot read %s: %w", output.OneLine(f.line), err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, apt.MaxSources+1))
	if err != nil {
		return source, "", nil, output.Error(errkind.Invalid, "cannot read %s: %w", output.OneLine(f.line), err)
	}
	return apt.ParseSources(content)
}

// addWatched makes packages of the files in a directory.
func (a *app) addWatched(ctx context.Context, name, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return a.change(ctx, func(ctx context.Context, ag *agent) error {
		err := ag.manager.AddWatchedDirectory(ctx, name, dir)
		if errkind.Is(err, errkind.Exists) && ag.knows(ctx, name, dir) {
			return a.repositoryChanged(name, dir, output.T("repository %s is known already: %s", name, dir))
		}
		if err != nil {
			return sent(ctx, output.T("agent"), output.T("`lull repo list` shows its repositories"), err)
		}
		return a.repositoryChanged(name, dir, output.T("repository %s is known now: %s", name, dir))
	})
}

// addApt follows packages of a source of apt.
func (a *app) addApt(ctx context.Context, f aptFlags, trust, passwordFile string, packages []string) error {
	source, signedBy, keys, err := f.source()
	if err != nil {
		return err
	}
	first := ""
	for i, text := range packages {
		name, _, err := apt.ParsePackage(text)
		if err != nil {
			return err
		}
		if i == 0 {
			first = name
		}
	}
	name := output.Either(f.name, first)
	if source.URL, err = a.withPassword(source.URL, passwordFile); err != nil {
		return output.Doing(output.T("add %s", name), err)
	}
	key := output.Either(trust, signedBy)
	if key == "" && keys == nil {
		return output.Error(errkind.Usage, "cannot add %s: no root of trust is given", name).
			WithHint("get the signing key of the repository from its makers, and name it with --trust or signed-by")
	}
	if key != "" {
		keys, err = os.ReadFile(key)
	}
	if err == nil {
		_, err = apt.ReadKeys(keys)
	}
	if err != nil {
		return output.Error(errkind.Invalid, "cannot add %s: what is trusted cannot be read: %w", name, err)
	}
	shown := source.Line()
	line := strings.Join(append([]string{"deb", source.URL, source.Suite}, source.Components...), " ")
	return a.change(ctx, func(ctx context.Context, ag *agent) error {
		err := ag.manager.AddAptRepository(ctx, name, line, keys, packages)
		if errkind.Is(err, errkind.Exists) && ag.knows(ctx, name, shown) {
			return a.repositoryChanged(name, shown, output.T("repository %s is known already: %s", name, shown))
		}
		if err != nil {
			return sent(ctx, output.T("agent"), output.T("`lull repo list` shows its repositories"), err)
		}
		return a.repositoryChanged(name, shown, output.T("repository %s is known now: %s", name, shown))
	})
}
