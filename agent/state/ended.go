package state

import (
	"fmt"
	"strconv"

	"go.etcd.io/bbolt"
)

// KeepEnded is how many refreshes that have ended are remembered.
const KeepEnded = 200

// EndRefresh moves a journal record to those that have ended, as v, and forgets the
// oldest of these beyond KeepEnded. It is one write to the disk.
func (d *DB) EndRefresh(id string, v any) error {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return fmt.Errorf("cannot record the end of a refresh: %w", err)
	}
	key := fmt.Appendf(nil, "%020d", n) // in the order of their numbers
	b, err := encode(key, v)
	if err != nil {
		return err
	}
	return d.update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketRefreshes).Delete([]byte(id)); err != nil {
			return err
		}
		ended := tx.Bucket(bucketEnded)
		if err := ended.Put(key, b); err != nil {
			return err
		}
		c := ended.Cursor()
		over := -KeepEnded
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			over++
		}
		for k, _ := c.First(); k != nil && over > 0; k, _ = c.First() {
			if err := ended.Delete(k); err != nil {
				return err
			}
			over--
		}
		return nil
	})
}

// Ended reads the refreshes that have ended, the oldest first. A record that cannot be
// decoded is handed to bad and dropped.
func Ended[T any](d *DB, bad func(id string, err error)) ([]T, error) {
	return readable[T](d, bucketEnded, bad)
}
