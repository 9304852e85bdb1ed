package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
)

// Name is the name of the repository, and of its directory below the root.
const Name = "local"

// scratchPrefix begins the names of scratch directories below the root.
const scratchPrefix = ".file-"

// signedFor is the lifetime of signatures. If no more files are installed on a machine, its
// repository is not re-signed.
const signedFor = 50 * 365 * 24 * time.Hour

// Store is the repository of this machine, with the settings for its use.
type Store struct {
	Root      string // of the agent
	At        string // directory of the repository; "" means local below Root
	Converter string // path of lull-convert
	// Confine starts the converter in an environment that contains only the empty
	// directory root. Nil means as a child of the agent.
	Confine func(root string) convert.Start
	// MayWrite returns an error of kind NoSpace if the disk has no space for that many
	// bytes.
	MayWrite func(bytes int64) error
}

// Dir returns the directory of the repository, which is also its address.
func (s *Store) Dir() string {
	if s.At != "" {
		return s.At
	}
	return filepath.Join(s.Root, Name)
}

func (s *Store) common() publish.Common {
	return publish.Common{Expires: publish.Expiry{Root: signedFor, Targets: signedFor, Snapshot: signedFor, Timestamp: signedFor}}
}

// Tidy deletes the files of an interrupted run. It is called before the first upload.
func (s *Store) Tidy() error {
	top, err := os.ReadDir(s.Root)
	for _, f := range top {
		if strings.HasPrefix(f.Name(), scratchPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.Root, f.Name())))
		}
	}
	if errors.Is(err, syscall.EROFS) {
		return nil // the next start with a writable root deletes it
	}
	return err
}

// Made reports whether the repository exists.
func (s *Store) Made() bool {
	_, err := os.Stat(filepath.Join(s.Dir(), "metadata", "timestamp.json"))
	return err == nil
}

// Make makes the repository, unless it exists, and returns its root of trust.
func (s *Store) Make(ctx context.Context) (root []byte, err error) {
	if err := durable.MkdirAll(s.Dir(), 0o700); err != nil {
		return nil, err
	}
	err = publish.Init(ctx, s.Dir(), publish.InitOptions{Common: s.common()})
	if err != nil && !(errkind.Is(err, errkind.Exists) && s.Made()) {
		return nil, err
	}
	return os.ReadFile(filepath.Join(s.Dir(), "root.json"))
}

// Prune deletes unneeded content from the repository: see publish.Prune.
func (s *Store) Prune(ctx context.Context, o publish.PruneOptions) (publish.Pruned, error) {
	o.Common = s.common()
	return publish.Prune(ctx, s.Dir(), o)
}
