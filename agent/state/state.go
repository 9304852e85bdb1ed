// Package state keeps what the agent must remember across restarts and cannot
// read off the store, in one bbolt file, <root>/state.db:
//
//   - instances: one record an instance, with its revisions;
//   - refreshes: the journal, one record a refresh that has not ended;
//   - groups: one record for each set of them that commits all or none;
//   - holds, and the retained index;
//   - system: how far an update of the system has come, and which sets there are.
//
// The current revision is not in here: the symbolic link current/<instance>
// selects it, and its rename commits a refresh, so that the two can never
// disagree.
//
// Every record carries a checksum. A file that is damaged is a CorruptError and
// nothing is changed in it: SetAside renames it, and Salvage reads what is still
// whole. On a file system that cannot be written the file is opened for reading;
// the first change that succeeds in re-opening it makes it writable.
//
// A DB may be used from several goroutines. Every method that changes something
// has it on stable storage when it returns, and may block for that.
package state

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// Revision is one package hash that an instance has had.
type Revision struct {
	Number   uint32        `json:"number"`
	Package  digest.Digest `json:"package"`
	Version  string        `json:"version"`
	From     uint32        `json:"from,omitempty"` // the revision whose data it took over; 0 if none
	Made     time.Time     `json:"made"`           // when it first became current
	Reverted bool          `json:"reverted,omitempty"`
}

// Backoff delays the retry of a package that failed its health check.
type Backoff struct {
	Package digest.Digest `json:"package"`
	Version string        `json:"version,omitempty"`
	At      time.Time     `json:"at,omitzero"`      // when it was undone
	Reason  string        `json:"reason,omitempty"` // the error, with the last lines of the hook
	Until   time.Time     `json:"until"`
	Delay   time.Duration `json:"delay"`
}

// Window is when the postponement window of a package began whose refresh has ended
// without it: who cancels a refresh does not begin another window by that.
type Window struct {
	Package digest.Digest `json:"package"`
	Since   time.Time     `json:"since"`
}

// Instance is an installed application, one on its way, or the memory of one
// that was removed: its numbers are never reused, since they name users' data
// directories.
type Instance struct {
	Instance   string     `json:"instance"`
	Repository string     `json:"repository"`
	Channel    string     `json:"channel"`
	Revisions  []Revision `json:"revisions,omitempty"` // in ascending order
	Last       uint32     `json:"last"`                // the highest number ever given
	Left       uint32     `json:"left,omitempty"`      // current when it was removed, if its data was kept
	// Refused are packages that were reverted, youngest last: they are not offered any more,
	// also when their revision is no longer kept.
	Refused []digest.Digest `json:"refused,omitempty"`
	Backoff *Backoff        `json:"backoff,omitempty"`
	Window  *Window         `json:"window,omitempty"`
	// Took is how long the hooks and steps of the last critical section took, by name: see
	// the estimates of package refresh.
	Took map[string]time.Duration `json:"took,omitempty"`
	// Copied is the system data that the last critical section copied.
	Copied Copied `json:"copied,omitzero"`
}

// Copied is an amount of data: files and symlinks, and bytes of their content.
type Copied struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Revision returns the one of that number.
func (i *Instance) Revision(n uint32) (Revision, bool) {
	for _, r := range i.Revisions {
		if r.Number == n {
			return r, true
		}
	}
	return Revision{}, false
}

// maxRefused bounds the memory of reverted packages.
const maxRefused = 32

// Refuse remembers a reverted package.
func (i *Instance) Refuse(pkg digest.Digest) {
	i.Accept(pkg)
	i.Refused = append(i.Refused, pkg)
	if over := len(i.Refused) - maxRefused; over > 0 {
		i.Refused = slices.Delete(i.Refused, 0, over)
	}
}

// Accept forgets that a package was reverted.
func (i *Instance) Accept(pkg digest.Digest) {
	i.Refused = slices.DeleteFunc(i.Refused, func(d digest.Digest) bool { return d == pkg })
}

var (
	bucketInstances = []byte("instances")
	bucketRefreshes = []byte("refreshes")
	bucketGroups    = []byte("groups")
	bucketHolds     = []byte("holds")
	bucketSets      = []byte("sets")
	bucketSystem    = []byte("system")
	bucketEnded     = []byte("ended")
)

// Retained is the name of the durable set of packages that the system updater keeps.
const Retained = "retained"

// Instance returns one record; kind NotFound where there is none.
func (d *DB) Instance(name string) (Instance, error) {
	var i Instance
	found, err := d.get(bucketInstances, name, &i)
	if err == nil && !found {
		err = errkind.New(errkind.NotFound, "cannot find %s: it is not installed", name)
	}
	return i, err
}

// Instances returns all records, ordered by name.
func (d *DB) Instances() ([]Instance, error) { return all[Instance](d, bucketInstances) }

// UpdateInstance changes one record as a whole. For a new instance fn gets an
// empty record of that name. An error of fn changes nothing.
func (d *DB) UpdateInstance(name string, fn func(*Instance) error) error {
	return d.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketInstances)
		i := Instance{Instance: name}
		if old := b.Get([]byte(name)); old != nil {
			if err := decode([]byte(name), old, &i); err != nil {
				return fmt.Errorf("cannot read the record of %s: %w", name, err)
			}
		}
		if err := fn(&i); err != nil {
			return err
		}
		v, err := encode([]byte(name), i)
		if err != nil {
			return err
		}
		return put(b, []byte(name), v)
	})
}

// RemoveInstance forgets an instance and its holds, but for the numbers it has
// used and the revision whose data is left (0: none).
func (d *DB) RemoveInstance(name string, left uint32) error {
	err := d.UpdateInstance(name, func(i *Instance) error {
		*i = Instance{Instance: name, Last: i.Last, Left: left}
		return nil
	})
	return errors.Join(err, d.RemoveHolds(name))
}

// NextRefresh gives out a refresh number that was never used.
func (d *DB) NextRefresh() (id string, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		n, err := tx.Bucket(bucketRefreshes).NextSequence()
		id = strconv.FormatUint(n, 10)
		return err
	})
	return id, err
}

// PutRefresh writes a journal record; v is encoded as JSON.
func (d *DB) PutRefresh(id string, v any) error { return d.put(bucketRefreshes, id, v) }

// RemoveRefresh drops a journal record.
func (d *DB) RemoveRefresh(id string) error { return d.remove(bucketRefreshes, id) }

// Refreshes reads the journal. A record that cannot be decoded is handed to bad and dropped,
// since what it did is visible in the links and is repaired from there.
func Refreshes[T any](d *DB, bad func(id string, err error)) ([]T, error) {
	return readable[T](d, bucketRefreshes, bad)
}

// PutGroup writes the record of a group of refreshes; v is encoded as JSON.
func (d *DB) PutGroup(id string, v any) error { return d.put(bucketGroups, id, v) }

// RemoveGroup drops the record of a group.
func (d *DB) RemoveGroup(id string) error { return d.remove(bucketGroups, id) }

// Groups reads the records of all groups, as Refreshes does.
func Groups[T any](d *DB, bad func(id string, err error)) ([]T, error) {
	return readable[T](d, bucketGroups, bad)
}

func readable[T any](d *DB, bucket []byte, bad func(id string, err error)) (list []T, err error) {
	var broken []string
	err = d.view(func(tx *bbolt.Tx) error {
		list, broken = nil, nil
		return tx.Bucket(bucket).ForEach(func(k, b []byte) error {
			var v T
			if err := decode(k, b, &v); err != nil {
				bad(string(k), err)
				broken = append(broken, string(k))
				return nil
			}
			list = append(list, v)
			return nil
		})
	})
	for _, id := range broken {
		err = errors.Join(err, d.remove(bucket, id))
	}
	return list, err
}

// Set returns one of the durable sets of packages.
func (d *DB) Set(name string) (list []digest.Digest, err error) {
	_, err = d.get(bucketSets, name, &list)
	return list, err
}

// PutSet replaces a durable set as a whole.
func (d *DB) PutSet(name string, list []digest.Digest) error { return d.put(bucketSets, name, list) }
