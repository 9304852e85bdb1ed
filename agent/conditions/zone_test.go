package conditions

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTimeZoneIsFollowed: each replacement of the file is noticed, more than once.
func TestTimeZoneIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "localtime")
	link := func(to string) {
		t.Helper()
		if err := os.Symlink(to, path+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil { // as timedated does
			t.Fatal(err)
		}
	}
	link("/usr/share/zoneinfo/UTC")
	changes := make(chan struct{}, 16)
	stop, err := WatchZone(path, func() { changes <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, to := range []string{"/usr/share/zoneinfo/Europe/Berlin", "/usr/share/zoneinfo/Asia/Kolkata", "/nowhere"} {
		for len(changes) > 0 {
			<-changes
		}
		link(to)
		select {
		case <-changes:
		case <-time.After(time.Minute):
			t.Fatalf("the change to %s is not noticed", to)
		}
	}
}
