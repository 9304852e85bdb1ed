// Package storeid is the identity of a store: a random number that is made at the
// agent's first start in a root. A record beside a user's data names by it
// the store that made it. Homes outlive stores: a machine is purged and
// reinstalled, several machines share a network home, an agent of one user's own runs
// beside the system's. Each counts its revisions from 1, so that a revision's number
// alone does not identify data.
//
// The identity is one file, <root>/store.json, world-readable and written by
// the agent alone, once. An image of a machine that will be cloned must not
// contain it: each clone makes its own at the first start of its agent.
//
// Functions may be called from any goroutine; Ensure blocks for stable storage.
package storeid

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/durable"
)

// File is the name of the file in the root.
const File = "store.json"

// ID is the content of the file. The zero value is the identity of a store
// whose agent has not made one yet.
type ID struct {
	ID string `json:"id"` // 32 hexadecimal digits
	// UserData is the directory of all instances' user data. It is set for an agent of
	// one user's own alone; "" means ~/.local/share/lull of each user.
	UserData string `json:"user-data,omitempty"`
	// Adopt is the highest revision of each instance that the store had given out before
	// it had an identity. Data without a record belongs to the store up to this revision.
	Adopt map[string]uint32 `json:"adopt,omitempty"`
}

// Short is the part of the identity that names of directories carry.
func (i ID) Short() string { return i.ID[:min(len(i.ID), 4)] }

func (i ID) valid() bool {
	b, err := hex.DecodeString(i.ID)
	return err == nil && len(b) == 16 && (i.UserData == "" || filepath.IsAbs(i.UserData))
}

var errDamaged = errors.New("it is damaged")

// Read returns the identity of the store in root. The error is fs.ErrNotExist where
// there is none yet.
func Read(root string) (ID, error) {
	path := filepath.Join(root, File)
	b, err := os.ReadFile(path)
	if err != nil {
		return ID{}, err
	}
	var i ID
	if err := json.Unmarshal(b, &i); err != nil || !i.valid() {
		return ID{}, fmt.Errorf("cannot use %s: %w", path, errDamaged)
	}
	return i, nil
}

// Ensure returns the identity of the store in root, and makes it of fresh where there
// is none, or none that can be read: made reports that. ID in fresh is ignored.
func Ensure(root string, fresh ID) (id ID, made bool, err error) {
	id, err = Read(root)
	if err == nil {
		return id, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged) {
		return ID{}, false, err
	}
	random := make([]byte, 16)
	rand.Read(random) // never fails (crypto/rand)
	fresh.ID = hex.EncodeToString(random)
	if !fresh.valid() {
		return ID{}, false, fmt.Errorf("cannot make the identity of the store in %s: %q is no absolute path", root, fresh.UserData)
	}
	b, err := json.Marshal(fresh)
	if err != nil {
		return ID{}, false, err
	}
	if err := durable.WriteFile(filepath.Join(root, File), append(b, '\n'), 0o644); err != nil {
		return ID{}, false, fmt.Errorf("cannot make the identity of the store: %w", err)
	}
	return fresh, true, nil
}
