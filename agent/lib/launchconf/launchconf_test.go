package launchconf

import (
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// TestWriteFromSeveralGoroutines replaces the file from several goroutines, as when many
// packages are installed: no call fails, and the file that stays is complete.
func TestWriteFromSeveralGoroutines(t *testing.T) {
	dir := t.TempDir()
	want := Settings{Bus: "system", Tracker: "freezer", Root: "/" + strings.Repeat("x", 5000)}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 50 {
				if err := Write(dir, want); err != nil {
					t.Error(err)
				}
				if got, err := Read(dir); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("read %+v, %v; want no error and %v", got, err, want)
				}
			}
		})
	}
	all.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v are left in the folder, %v", entries, err)
	}
}
