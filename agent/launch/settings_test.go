package launch

import (
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// TestSettingsBySeveral has the file replaced by many at a time, as when many
// packages are installed: nobody fails, and what stays is whole.
func TestSettingsBySeveral(t *testing.T) {
	dir := t.TempDir()
	want := Settings{Bus: "system", Tracker: "freezer", Root: "/" + strings.Repeat("x", 5000)}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 50 {
				if err := WriteSettings(dir, want); err != nil {
					t.Error(err)
				}
				if got, err := ReadSettings(dir); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("read %+v, %v", got, err)
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
