package state

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
)

// Loss describes a file that was damaged. It stays until the retained index,
// which is recorded nowhere else, is set again.
type Loss struct {
	At       time.Time `json:"at"`
	Aside    string    `json:"aside,omitempty"` // its new name; empty if there was none
	Cause    string    `json:"cause"`
	Retained bool      `json:"retained"` // the retained index is lost
}

const lossKey = "loss"

// Lost returns what was lost, and whether anything was.
func (d *DB) Lost() (l Loss, lost bool, err error) {
	lost, err = d.get(bucketSets, lossKey, &l)
	return l, lost, err
}

// PutLoss remembers a loss.
func (d *DB) PutLoss(l Loss) error { return d.put(bucketSets, lossKey, l) }

// ForgetLoss ends it.
func (d *DB) ForgetLoss() error { return d.remove(bucketSets, lossKey) }

// Salvaged is what is whole in a damaged file: each record has proved it.
type Salvaged struct {
	Instances []Instance
	Holds     []Hold
	Retained  []digest.Digest
	Known     bool // Retained was there
	System    json.RawMessage
}

// Salvage reads what it can of a damaged file. Of the journal it reads nothing:
// half of it would mislead.
func Salvage(path string) (s Salvaged) {
	// Of a copy: an attempt to open the file that ended in a panic has left a lock on it.
	copied, err := copyAway(path)
	if err != nil {
		return s
	}
	defer os.Remove(copied)
	var db *bbolt.DB
	err = guard(func() (err error) {
		db, err = bbolt.Open(copied, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
		return err
	})
	if err != nil {
		return s
	}
	each := func(bucket []byte, take func(k, v []byte)) {
		_ = guard(func() error {
			return db.View(func(tx *bbolt.Tx) error {
				return tx.Bucket(bucket).ForEach(func(k, v []byte) error { take(k, v); return nil })
			})
		})
	}
	each(bucketInstances, func(k, v []byte) {
		var i Instance
		if decode(k, v, &i) == nil {
			s.Instances = append(s.Instances, i)
		}
	})
	each(bucketHolds, func(k, v []byte) {
		var h Hold
		if decode(k, v, &h) == nil {
			s.Holds = append(s.Holds, h)
		}
	})
	each(bucketSets, func(k, v []byte) {
		if string(k) == Retained && decode(k, v, &s.Retained) == nil {
			s.Known = true
		}
	})
	each(bucketSystem, func(k, v []byte) {
		if text, err := content(k, v); err == nil {
			s.System = slices.Clone(text)
		}
	})
	_ = guard(db.Close) // it was only read
	return s
}

func copyAway(path string) (string, error) {
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(path), durable.TempPrefix+"salvage-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return to.Name(), errors.Join(err, to.Close())
}
