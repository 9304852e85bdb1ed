package state

import (
	"go.etcd.io/bbolt"

	"github.com/lull/lull/agent/lib/digest"
)

const systemKey = "record"

// System reads the record of system updates into v, if there is one.
func (d *DB) System(v any) (found bool, err error) { return d.get(bucketSystem, systemKey, v) }

// PutSystem writes the record of system updates, as JSON, and the retained
// index that belongs to it: both or neither. If that index was lost, it is
// known from then on.
func (d *DB) PutSystem(v any, retained []digest.Digest) error {
	record, err := encode([]byte(systemKey), v)
	if err != nil {
		return err
	}
	set, err := encode([]byte(Retained), retained)
	if err != nil {
		return err
	}
	return d.update(func(tx *bbolt.Tx) error {
		sets := tx.Bucket(bucketSets)
		if err := sets.Put([]byte(Retained), set); err != nil {
			return err
		}
		if err := sets.Delete([]byte(lossKey)); err != nil {
			return err
		}
		return tx.Bucket(bucketSystem).Put([]byte(systemKey), record)
	})
}

// RestoreSystem writes a record that was salvaged.
func (d *DB) RestoreSystem(v any) error { return d.put(bucketSystem, systemKey, v) }
