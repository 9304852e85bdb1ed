package main

import (
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repo/publish/bucket"
	"github.com/lull/lull/cmd/lull/output"
)

// signing has the flags of every verb that signs.
type signing struct {
	app                     *app
	keys, expires, passFile string
}

func (s *signing) add(a *app, cmd *cobra.Command) {
	s.app = a
	cmd.Flags().StringVar(&s.keys, "keys", "", "`directory` of the keys, if not REPOSITORY.keys; a bucket needs it")
	cmd.Flags().StringVar(&s.expires, "expires", "", "`time` for which signatures are good, if not a year: 30d, 12w")
	s.addPassphrase(cmd)
}

func (s *signing) addPassphrase(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.passFile, "passphrase-file", "", "`file` with the passphrase of the keys, which also encrypts new ones; -: ask for it, or read standard input")
}

// common returns the options for the publishing package. The root key keeps its own, longer
// lifetime.
func (s *signing) common(repository string) (c publish.Common, err error) {
	c.Keys, c.Credentials = s.keys, os.Getenv("CREDENTIALS_DIRECTORY") // systemd.exec(5)
	if s.app != nil {
		c.Passphrase, c.Encrypt = s.app.passphrase(s.passFile), s.passFile != ""
	}
	if c.Storage, err = storageOf(repository); err != nil {
		return c, err
	}
	if c.Storage != nil && s.keys == "" {
		return c, output.Error(errkind.Usage, "cannot use the repository %s: no directory of its keys is named", repository).WithHint("--keys names it")
	}
	if s.expires == "" {
		return c, nil
	}
	d, err := output.ParseDuration(s.expires)
	c.Expires = publish.Expiry{Targets: d, Snapshot: d, Timestamp: d}
	return c, err
}

// passphrase returns a function that reads the passphrase of keys once. Without a file it asks
// on a terminal. Nil means that there is neither.
func (a *app) passphrase(file string) func(confirm bool) ([]byte, error) {
	if file == "" && !a.asks() {
		return nil
	}
	if file == "" {
		file = "-"
	}
	var once sync.Once
	var pass string
	var err error
	return func(confirm bool) ([]byte, error) {
		once.Do(func() {
			if pass, err = a.readSecret(file, output.T("Passphrase of the keys: ")); err != nil || !confirm || file != "-" || !a.asks() {
				return
			}
			var again string
			if again, err = a.readSecret(file, output.T("The same passphrase again: ")); err == nil && again != pass {
				err = errors.New(output.T("the two differ"))
			}
		})
		if err != nil {
			return nil, output.Error(errkind.Invalid, "the passphrase cannot be read: %w", err)
		}
		return []byte(pass), nil
	}
}

// storageOf returns the bucket that an address names. Nil means a directory.
func storageOf(repository string) (publish.Storage, error) {
	if !strings.HasPrefix(repository, bucket.Scheme) {
		return nil, nil
	}
	b, err := bucket.Open(repository)
	if err != nil {
		return nil, err
	}
	return b, nil
}
