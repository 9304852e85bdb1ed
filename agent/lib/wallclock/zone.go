package wallclock

import (
	"io/fs"
	"os"
	"sync"
	"time"
)

// ZoneFile names the time zone of the machine: localtime(5).
const ZoneFile = "/etc/localtime"

// machine is the time zone of the machine as it was read last.
var machine = zone{path: ZoneFile}

// zone is a time zone in a file.
type zone struct {
	path string

	mu   sync.Mutex // guards what follows
	link string     // the target, if the file is a symbolic link
	info fs.FileInfo
	read *time.Location // nil before the first reading
}

// Zone returns the time zone of the machine as it is now. time.Local stays the one of the
// program's start. TZ in the environment overrides both.
func Zone() *time.Location {
	if _, set := os.LookupEnv("TZ"); set {
		return time.Local
	}
	return machine.now()
}

// now reads the file if it has changed. An unreadable one leaves the zone as it is.
func (z *zone) now() *time.Location {
	link, _ := os.Readlink(z.path) // empty for a regular file
	info, err := os.Stat(z.path)
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.read == nil {
		z.read = time.Local
	}
	if err != nil || z.info != nil && link == z.link && os.SameFile(info, z.info) && info.ModTime().Equal(z.info.ModTime()) && info.Size() == z.info.Size() {
		return z.read
	}
	if info.Size() > maxZone {
		return z.read
	}
	data, err := os.ReadFile(z.path)
	if err != nil {
		return z.read
	}
	if read, err := time.LoadLocationFromTZData("Local", data); err == nil {
		z.link, z.info, z.read = link, info, read
	}
	return z.read
}

// maxZone bounds the file in bytes: those of the tz database have at most some four thousand.
const maxZone = 1 << 20
