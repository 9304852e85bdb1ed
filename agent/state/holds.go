package state

import (
	"bytes"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
)

// Hold is a "not now", with its owner and its end. Each user has at most one on
// an instance.
type Hold struct {
	Instance string    `json:"instance"`
	UID      uint32    `json:"uid"`
	Owner    string    `json:"owner"`           // the name that UID had
	Admin    bool      `json:"admin,omitempty"` // it is not bounded by what policy lets users
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Reason   string    `json:"reason,omitempty"`
}

// AllInstances is the instance of a hold on everything, also on what is installed later.
// No instance can be called that.
const AllInstances = "*"

// holdKey cannot be mistaken: an instance has no slash.
func holdKey(instance string, uid uint32) string {
	return instance + "/" + strconv.FormatUint(uint64(uid), 10)
}

// PutHold records a hold in place of an earlier one of its owner on the instance.
func (d *DB) PutHold(h Hold) error { return d.put(bucketHolds, holdKey(h.Instance, h.UID), h) }

// RemoveHold ends the hold of a user on an instance, if there is one.
func (d *DB) RemoveHold(instance string, uid uint32) error {
	return d.remove(bucketHolds, holdKey(instance, uid))
}

// RemoveHolds ends all holds on an instance.
func (d *DB) RemoveHolds(instance string) error {
	prefix := []byte(instance + "/")
	return d.update(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketHolds).Cursor()
		var keys [][]byte
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			keys = append(keys, bytes.Clone(k))
		}
		if len(keys) == 0 {
			return errUnchanged
		}
		for _, k := range keys {
			if err := tx.Bucket(bucketHolds).Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// Holds returns the holds on an instance, those that are over included, ordered
// by user.
func (d *DB) Holds(instance string) (list []Hold, err error) {
	prefix := []byte(instance + "/")
	err = d.view(func(tx *bbolt.Tx) error {
		list = nil
		c := tx.Bucket(bucketHolds).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			var h Hold
			if err := decode(k, v, &h); err != nil {
				return err
			}
			list = append(list, h)
		}
		return nil
	})
	return list, err
}

// DropHolds removes the holds that are over.
func (d *DB) DropHolds(over func(Hold) bool) error {
	holds, err := all[Hold](d, bucketHolds)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if over(h) {
			if err := d.RemoveHold(h.Instance, h.UID); err != nil {
				return err
			}
		}
	}
	return nil
}
