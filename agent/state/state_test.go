package state

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

func open(t *testing.T) (*DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func TestRecordsSurviveReopening(t *testing.T) {
	d, path := open(t)
	pkg := digest.Of([]byte("x"))
	err := d.UpdateInstance("notes", func(i *Instance) error {
		i.Last++
		i.Revisions = append(i.Revisions, Revision{Number: i.Last, Package: pkg, Version: "1"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	if err := errors.Join(d.PutHold(Hold{Instance: "notes", Owner: "ann", Until: until}), d.PutSet(Retained, []digest.Digest{pkg})); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	i, err := d.Instance("notes")
	if r, ok := i.Revision(1); err != nil || !ok || r.Package != pkg {
		t.Fatalf("got %+v (%v), want revision 1 of %s", i, err, pkg)
	}
	if h, err := d.Holds("notes"); err != nil || len(h) != 1 || h[0].Owner != "ann" || !h[0].Until.Equal(until) {
		t.Fatalf("got holds %+v (%v), want one by ann until %v", h, err, until)
	}
	if set, err := d.Set(Retained); err != nil || len(set) != 1 || set[0] != pkg {
		t.Fatalf("retained: got %v, %v; want %s alone and no error", set, err, pkg)
	}
	if _, err := d.Instance("other"); !errkind.Is(err, errkind.NotFound) {
		t.Fatalf("another instance: got %v, want an error of kind %s", err, errkind.NotFound)
	}
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	d, _ := open(t)
	if err := d.UpdateInstance("notes", func(i *Instance) error { i.Last = 7; return errors.New("no") }); err == nil {
		t.Fatal("no error")
	}
	if _, err := d.Instance("notes"); !errkind.Is(err, errkind.NotFound) {
		t.Fatalf("after a failed update: got %v, want an error of kind %s", err, errkind.NotFound)
	}
}

func TestRefreshNumbersAreNeverUsedAgain(t *testing.T) {
	d, _ := open(t)
	seen := map[string]bool{}
	for range 5 {
		id, err := d.NextRefresh()
		if err != nil || seen[id] {
			t.Fatalf("got ID %v, %v; want a new one and no error", id, err)
		}
		seen[id] = true
		if err := errors.Join(d.PutRefresh(id, struct{}{}), d.RemoveRefresh(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBrokenJournalRecordIsDroppedAndTold(t *testing.T) {
	d, _ := open(t)
	if err := d.PutRefresh("1", map[string]string{"id": "1"}); err != nil {
		t.Fatal(err)
	}
	err := d.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketRefreshes).Put([]byte("2"), []byte("{broken")) })
	if err != nil {
		t.Fatal(err)
	}
	type record struct{ ID string }
	var bad []string
	for want := range 2 { // the second time the broken one is gone
		bad = nil
		list, err := Refreshes[record](d, func(id string, _ error) { bad = append(bad, id) })
		if err != nil || len(list) != 1 || list[0].ID != "1" {
			t.Fatalf("got %+v, %v; want ID 1 alone and no error", list, err)
		}
		if len(bad) != 1-want {
			t.Fatalf("told of %v in round %d; want %v of them", bad, want, 1-want)
		}
	}
}

func TestSecondOpenerIsTold(t *testing.T) {
	_, path := open(t)
	if _, err := Open(path); !errkind.Is(err, errkind.Busy) {
		t.Fatalf("a second Open: got %v, want an error of kind %s", err, errkind.Busy)
	}
}

// TestNumbersOutliveRemoval: revision numbers name users' data directories, so
// that a new life of the instance must not meet those of an old one.
func TestNumbersOutliveRemoval(t *testing.T) {
	d, _ := open(t)
	err := d.UpdateInstance("notes", func(i *Instance) error {
		i.Last, i.Revisions, i.Refused = 3, []Revision{{Number: 3}}, []digest.Digest{digest.Of(nil)}
		return nil
	})
	if err := errors.Join(err, d.PutHold(Hold{Instance: "notes", Until: time.Now().Add(time.Hour)}), d.RemoveInstance("notes", 3)); err != nil {
		t.Fatal(err)
	}
	i, err := d.Instance("notes")
	if err != nil || i.Last != 3 || i.Left != 3 || len(i.Revisions)+len(i.Refused) > 0 {
		t.Fatalf("got %+v (%v), want last and left 3, and neither revisions nor refusals", i, err)
	}
	if h, err := d.Holds("notes"); err != nil || len(h) > 0 {
		t.Fatal("the hold is still there", h, err)
	}
}

// TestUnchanged: what is written already is not flushed again.
func TestUnchanged(t *testing.T) {
	d, _ := open(t)
	flushes := func(what string, want bool, do func() error) {
		t.Helper()
		stats := d.db.Stats()
		before := stats.TxStats.GetWrite()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		stats = d.db.Stats()
		if got := stats.TxStats.GetWrite() > before; got != want {
			t.Errorf("%s: written is %v, want %v", what, got, want)
		}
	}
	set := func(last uint32) func() error {
		return func() error { return d.UpdateInstance("a", func(i *Instance) error { i.Last = last; return nil }) }
	}
	flushes("a new record", true, set(1))
	flushes("the same", false, set(1))
	flushes("another", true, set(2))
	flushes("a journal entry", true, func() error { return d.PutRefresh("1", "x") })
	flushes("the same entry", false, func() error { return d.PutRefresh("1", "x") })
	flushes("another entry", true, func() error { return d.PutRefresh("1", "y") })
	flushes("its removal", true, func() error { return d.RemoveRefresh("1") })
	flushes("its removal again", false, func() error { return d.RemoveRefresh("1") })
	flushes("no holds", false, func() error { return d.RemoveHolds("a") })
	if i, err := d.Instance("a"); err != nil || i.Last != 2 {
		t.Errorf("%+v, %v; want no error and last 2", i, err)
	}
}
