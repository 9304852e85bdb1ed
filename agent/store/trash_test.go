package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/storetest"
)

func TestTrash(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, _, _ := apps(t, r)
	r.Put(t, s, one)
	a := store.Key{Digest: digest.Of([]byte("app 1")), Exec: true}
	b := store.Key{Digest: digest.Of([]byte("libc"))}
	c := store.Key{Digest: digest.Of([]byte("same"))}
	nobody := store.Key{Digest: digest.Of([]byte("not there"))}
	tree, err := s.TakeTree(one, func() (bool, error) { return false, nil })
	if tree != nil || err != nil || !s.HasPackage(one) {
		t.Errorf("TakeTree of a tree that must stay: got %v, %v, the package there: %v; want no tree, no error and true", tree, err, s.HasPackage(one))
	}
	if tree, err = s.TakeTree(one, func() (bool, error) { return true, nil }); err != nil || s.HasPackage(one) {
		t.Errorf("TakeTree: got %v, the package there: %v; want no error and false", err, s.HasPackage(one))
	}
	taken, _, err := s.Trash([]store.Key{a, b, c, nobody}, nil, func(k store.Key) (bool, error) { return k != c, nil })
	if err != nil || len(taken) != 2 || s.Has(a) || !s.Has(c) {
		t.Errorf("Trash: got %v, %v, blobs there: %v and %v; want 2 taken, no error, the first gone and the last there", taken, err, s.Has(a), s.Has(c))
	}
	// A resolve wants one back.
	if absent, err := s.Absent([]store.Want{{a, -1}, {c, -1}, {nobody, -1}}); err != nil || len(absent) != 1 || absent[0].Key != nobody || !s.Has(a) {
		t.Errorf("Absent: got %v, %v, and the taken blob there: %v; want only %v, no error and true", absent, err, s.Has(a), nobody)
	}
	if deleted, err := s.Purge(taken); err != nil || len(deleted) != 1 || deleted[0] != b {
		t.Errorf("Purge: got %v, %v; want only %v and no error", deleted, err, b)
	}
	if s.Has(b) || !s.Has(a) {
		t.Error("the wrong one is gone")
	}
	// Blobs in the tree stay there, and are restored from there.
	help := store.Key{Digest: digest.Of([]byte(""))}
	taken, inTree, err := s.Trash([]store.Key{a, b, help, c}, tree, func(store.Key) (bool, error) { return true, nil })
	if err != nil || len(taken) != 0 || len(inTree) != 3 || s.Has(a) {
		t.Errorf("Trash with the tree: got %v taken, %v in the tree, %v, and the blob there: %v; want 0, 3, no error and false", taken, inTree, err, s.Has(a))
	}
	if absent, err := s.Absent([]store.Want{{Key: a}}); err != nil || len(absent) != 0 || !s.Has(a) {
		t.Errorf("Absent: got %v, %v, and the blob there: %v; want none absent, no error and true", absent, err, s.Has(a))
	}
	if deleted, err := s.DiscardTree(tree); err != nil || len(deleted) != 2 || s.Has(help) || !s.Has(a) {
		t.Errorf("DiscardTree: got %v, %v, blobs there: %v and %v; want 2, no error, the first gone and the restored one there", deleted, err, s.Has(help), s.Has(a))
	}
	if absent, err := s.Absent([]store.Want{{Key: help}}); err != nil || len(absent) != 1 {
		t.Errorf("Absent of what is deleted: %v, %v; want no error and 1 absent", absent, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "trash/*/*")); len(left) > 0 {
		t.Errorf("left in the trash: %v", left)
	}
	stop := errors.New("stop")
	if taken, _, err := s.Trash([]store.Key{a}, nil, func(k store.Key) (bool, error) { return true, stop }); !errors.Is(err, stop) || len(taken) != 0 {
		t.Errorf("TakeAway after an error: %v, %v; want the error %v and 0 taken", taken, err, stop)
	}
}

// TestAskedWhileTaken: a query for a blob that the collector is about to
// remove, registered too late to be seen, gets the true answer.
func TestAskedWhileTaken(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	one, two, _ := apps(t, r)
	r.Put(t, s, one)
	r.Put(t, s, two)
	same := store.Key{Digest: digest.Of([]byte("same"))}
	for name, ask := range map[string]func() ([]store.Want, error){
		"Absent": func() ([]store.Want, error) { return s.Absent([]store.Want{{same, 4}}) },
		"Restage": func() ([]store.Want, error) {
			g, missing, err := s.Restage(two, nil)
			if err == nil {
				err = g.Close()
			}
			return missing, err
		},
	} {
		answer := make(chan error, 1)
		_, _, err := s.Trash([]store.Key{same}, nil, func(store.Key) (bool, error) {
			go func() {
				missing, err := ask()
				if err == nil && len(missing) > 0 {
					err = fmt.Errorf("missing: %v", missing)
				}
				answer <- err
			}()
			select {
			case err := <-answer:
				t.Errorf("%s: answered before it was decided, %v", name, err)
				answer <- err
			case <-time.After(50 * time.Millisecond): // long enough for a wrong answer
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err != nil || !s.Has(same) {
			t.Errorf("%s: got %v, the blob there: %v; want no error and true", name, err, s.Has(same))
		}
	}
	storetest.Clean(t, s)
}
