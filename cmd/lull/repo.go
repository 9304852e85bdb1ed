package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) repoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repo",
		Short: "Make repositories, or make them known to this machine",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.repoInitCmd(), a.repoAddCmd(), a.repoListCmd(), a.repoShowCmd(), a.repoSetURLCmd(), a.repoRemoveCmd(), a.repoResignCmd(), a.repoRotateCmd(), a.repoExportKeyCmd(), a.repoDelegateCmd(), a.repoUndelegateCmd(), a.repoAcceptCmd(), a.repoCheckCmd(), a.repoDeltasCmd(), a.repoPruneCmd(), a.repoSiteCmd())
	return cmd
}

func (a *app) repoInitCmd() *cobra.Command {
	var s signing
	var useKeys bool
	var thresholds []string
	cmd := &cobra.Command{
		Use:   "init REPOSITORY",
		Short: "Make an empty repository and its keys",
		Long: `Makes an empty repository, a directory or s3://BUCKET/PREFIX, and, beside it in
REPOSITORY.keys or in --keys, the keys that sign it. Keep the keys away from the web
server. The root.json in the repository is what others trust.

With --passphrase-file new keys are encrypted. A key that no file must contain is used
through a program: write its command line, one argument in each line, into
KEYS/ROLE.command and its public key into KEYS/ROLE.pub, and add --use-keys. The
program gets the data to sign on standard input and writes the signature.`,
		Example: `  lull repo init ./repo
  lull repo init ./repo --passphrase-file=- --threshold root=2/3
  lull repo init s3://packages/main --keys ./keys`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			counts, err := parseCounts(thresholds)
			if err != nil {
				return err
			}
			if err := publish.Init(cmd.Context(), words[0], publish.InitOptions{Common: common, UseKeys: useKeys, Counts: counts}); err != nil {
				return err
			}
			keys := output.Either(s.keys, filepath.Clean(words[0])+".keys")
			root, err := os.ReadFile(filepath.Join(keys, "root.json"))
			if err != nil {
				return err
			}
			trusted, err := repo.Fingerprints(root)
			if err != nil {
				return err
			}
			if a.JSON {
				return a.WriteJSON(repoInitJSON{output.One, words[0], keys, trusted})
			}
			if err := a.Say(output.T("%s is an empty repository now; its keys are in %s", words[0], keys)); err != nil {
				return err
			}
			if err := a.sayFingerprints(trusted); err != nil {
				return err
			}
			return a.sayOffline(keys)
		},
	}
	s.add(a, cmd)
	cmd.Flags().StringSliceVar(&thresholds, "threshold", nil, "`ROLE=N/M`: a signature of the role needs N of its M keys")
	cmd.Flags().BoolVar(&useKeys, "use-keys", false, "sign the new repository with keys that are there already")
	return cmd
}

// signed reports the change of a repository's signatures.
func (a *app) signed(repository, done string) error {
	if a.JSON {
		return a.WriteJSON(signedJSON{output.One, repository})
	}
	return a.Say(done)
}

func (a *app) repoResignCmd() *cobra.Command {
	var s signing
	var all, bins bool
	cmd := &cobra.Command{
		Use:   "resign REPOSITORY",
		Short: "Sign a repository again, before its signatures expire",
		Long: `Signs the timestamp of a repository again, so that it does not expire. One that is
lost or damaged is made again from the newest state that was signed.

--bins is for repositories of thousands of packages: machines then read the parts
that list their packages, and publishing takes the same time at any size.`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			if err := publish.Resign(cmd.Context(), words[0], publish.ResignOptions{Common: common, All: all, Bins: bins}); err != nil {
				return err
			}
			return a.signed(words[0], output.T("%s is signed again", words[0]))
		},
	}
	s.add(a, cmd)
	cmd.Flags().BoolVar(&all, "all", false, "sign the list of packages, too, not only the timestamp")
	cmd.Flags().BoolVar(&bins, "bins", false, "list the packages in parts, which earlier versions of lull cannot read")
	return cmd
}

func (a *app) repoRotateCmd() *cobra.Command {
	var s signing
	var roles []string
	cmd := &cobra.Command{
		Use:   "rotate REPOSITORY",
		Short: "Replace the keys of a repository by new ones",
		Long: `Replaces keys by new ones, as when one may have been seen by others. Those who
trust the repository follow by themselves. The old keys stay beside the new ones
in files that end in .old.`,
		Example: `  lull repo rotate ./repo
  lull repo rotate ./repo --role timestamp`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			common, err := s.common(words[0])
			if err != nil {
				return err
			}
			if err := publish.Rotate(cmd.Context(), words[0], publish.RotateOptions{Common: common, Roles: roles}); err != nil {
				return err
			}
			return a.signed(words[0], output.T("%s has new keys", words[0]))
		},
	}
	s.add(a, cmd)
	cmd.Flags().StringSliceVar(&roles, "role", nil, "`role`: root, targets, snapshot or timestamp; default all")
	return cmd
}

func (a *app) repoAddCmd() *cobra.Command {
	var trust, passwordFile, watch string
	var stated []string
	var source aptFlags
	cmd := &cobra.Command{
		Use:   "add NAME ADDRESS | --apt LINE PACKAGE... | --watch FOLDER NAME",
		Short: "Make a repository known to this machine",
		Long: `Makes a repository known to the agent: a directory, or an http or https address.
What is trusted is its root.json. Get that from its makers by a way that you
trust; that of a local directory is taken from there. The SHA-256 of its keys is
shown: compare it with what the makers state, or have --fingerprint compare it before
anything is trusted. It names each key of the root.

With --apt, PACKAGEs of an apt repository are followed: LINE is one of a sources.list, or
the path of a .sources file, with the signing key in signed-by or in --trust. New
versions are found by the ordinary schedule, made into packages like a file that is
installed, and refreshed like any other. PACKAGE is a name, or NAME=PACKAGE,PACKAGE...
if several become one.

With --watch, each file that is put into FOLDER becomes a version of the package that it
is, as by ` + "`lull install FILE`" + `, once it is complete. The first version is installed by
` + "`lull install PACKAGE`" + `, and newer ones are refreshed like any other. For the agent of the
system, only root may be able to write FOLDER, the directories above it, and the files.

A password is never part of the command, which every user of the machine can
read: it comes from a file, or with --password-file=- from the terminal or from
standard input.`,
		Example: `  lull repo add mine ./repo
  lull repo add example https://example.org/lull --trust root.json
  lull repo add inner https://reader@example.org/lull --trust root.json --password-file=-
  lull repo add --apt 'deb [signed-by=vendor.asc] https://example.org/debian stable main' editor
  lull repo add --apt ./vendor.sources editor
  lull repo add --watch /srv/packages ours
  lull --user repo add --watch ~/Applications mine`,
		Args: args(1, 200),
		RunE: func(cmd *cobra.Command, words []string) error {
			if watch != "" {
				if source.line != "" || trust != "" || passwordFile != "" || len(stated) > 0 {
					return output.Error(errkind.Usage, "cannot add %s: --watch needs no other flag", output.OneLine(words[0]))
				}
				if err := args(1, 1)(cmd, words); err != nil {
					return err
				}
				return a.addWatched(cmd.Context(), words[0], watch)
			}
			if source.line != "" && len(stated) > 0 {
				return output.Error(errkind.Usage, "cannot add %s with --fingerprint: it is not for --apt", output.OneLine(words[0]))
			}
			if source.line != "" {
				return a.addApt(cmd.Context(), source, trust, passwordFile, words)
			}
			if err := args(2, 2)(cmd, words); err != nil {
				return err
			}
			if source.name != "" {
				return output.Error(errkind.Usage, "cannot add %s with --name: it is for --apt", words[0])
			}
			name, address := words[0], words[1]
			address, err := localAddress(address)
			if err == nil {
				address, err = a.withPassword(address, passwordFile)
			}
			if err != nil {
				return output.Doing(output.T("add %s", name), err)
			}
			if trust == "" && filepath.IsAbs(address) {
				trust = filepath.Join(address, "root.json")
			}
			if trust == "" {
				return output.Error(errkind.Usage, "cannot add %s: no root of trust is given", name).
					WithHint("get the root.json of the repository from its makers, and name it with --trust")
			}
			root, err := os.ReadFile(trust)
			if err != nil {
				return output.Error(errkind.Invalid, "cannot add %s: what is trusted cannot be read: %w", name, err)
			}
			keys, err := repo.Fingerprints(root) // of an invalid root the agent reports the fault
			if len(stated) > 0 && err == nil {
				err = asStated(name, keys, stated)
			}
			if len(stated) > 0 && err != nil {
				return err
			}
			return a.change(cmd.Context(), func(ctx context.Context, ag *agent) error {
				shown := (repo.Config{URL: address}).Address()
				err := ag.manager.AddRepository(ctx, name, address, root)
				if errkind.Is(err, errkind.Exists) && ag.knows(ctx, name, shown) {
					return a.repositoryChanged(name, shown, output.T("repository %s is known already: %s", name, shown), keys...)
				}
				if err != nil {
					return sent(ctx, output.T("agent"), output.T("`lull repo list` shows its repositories"), err)
				}
				return a.repositoryChanged(name, shown, output.T("repository %s is known now: %s", name, shown), keys...)
			})
		},
	}
	cmd.Flags().StringVar(&trust, "trust", "", "`file` with the root metadata, or with --apt the signing key, that is trusted from now on")
	cmd.Flags().StringSliceVar(&stated, "fingerprint", nil, "`SHA-256` of the keys of the root metadata, as its makers state them; other keys are refused")
	cmd.Flags().StringVar(&watch, "watch", "", "make packages of the files that are put into a `directory`")
	source.add(cmd)
	addPasswordFile(cmd, &passwordFile)
	return cmd
}

// asStated returns nil if each key of a root of trust is a stated one.
func asStated(name string, keys, stated []string) error {
	for _, k := range keys {
		if !slices.ContainsFunc(stated, func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), k) }) {
			return output.Error(errkind.Untrusted, "cannot add %s: its root of trust has the key %s, which is not the stated one", name, k).
				WithHint("the file is not that of the makers, or they have other keys by now: ask them")
		}
	}
	return nil
}

// sayOffline names the keys in a directory that publishing does not need.
func (a *app) sayOffline(keys string) error {
	files, err := filepath.Glob(filepath.Join(keys, "root*.pem"))
	if err != nil || len(files) == 0 { // used through a program
		return err
	}
	return a.Say(output.N("  move %s to a safe place: only lull repo rotate needs it", "  move %s to a safe place: only lull repo rotate needs them", len(files), output.List(files)))
}

// sayFingerprints shows the keys of a repository's root of trust.
func (a *app) sayFingerprints(keys []string) error {
	return a.Say(output.N("  key of the root of trust (SHA-256): %s", "  keys of the root of trust (SHA-256): %s", len(keys), strings.Join(keys, ", ")))
}

// knows reports whether the agent reads the repository at this address.
func (ag *agent) knows(ctx context.Context, name, address string) bool {
	m, err := ag.manager.Properties(ctx)
	return err == nil && slices.ContainsFunc(repositoriesOf(m), func(r repositoryJSON) bool { return r.Name == name && r.URL == address })
}

// localAddress makes a path or file URL an absolute path. Other addresses remain unchanged.
func localAddress(s string) (string, error) {
	path, isFile := strings.CutPrefix(s, "file://")
	if !isFile && strings.Contains(s, "://") {
		return s, nil
	}
	return filepath.Abs(path)
}

// repoInitJSON is what `lull repo init` writes.
type repoInitJSON struct {
	output.Document
	Repository string `json:"repository"`
	Keys       string `json:"keys"`
	// Fingerprints are the SHA-256 of the keys of the root of trust.
	Fingerprints []string `json:"fingerprints"`
}

// signedJSON is what `lull repo resign` and `lull repo rotate` write.
type signedJSON struct {
	output.Document
	Repository string `json:"repository"`
}
