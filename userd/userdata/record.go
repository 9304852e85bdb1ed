package userdata

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/durable"
)

// records is the directory of the records below Base.
const records = ".lull"

// maxRecord bounds what is read of a record, in bytes.
const maxRecord = 256 << 10

// maxMissing bounds how much of what could not be copied a record names.
const maxMissing = 100

// Use is that a store uses a directory as the data of one of its revisions.
type Use struct {
	Store    string `json:"store"`
	Revision uint32 `json:"revision"`
}

// Missing is a file that a copy of the data lacks.
type Missing struct {
	Path string `json:"path"` // relative to the directory
	Why  string `json:"why"`
	In   string `json:"in"` // the directory beside this one that has it
}

// record identifies the owner of a directory.
type record struct {
	ID       string `json:"id"`
	Parent   string `json:"parent,omitempty"` // ID of its source; empty if it began empty
	Package  string `json:"package,omitempty"`
	Uses     []Use  `json:"uses"`    // the first is its maker
	Counter  uint64 `json:"counter"` // the highest is the newest
	Complete bool   `json:"complete"`
	// Runs counts launches in it, up to enoughRuns.
	Runs         int       `json:"runs,omitempty"`
	Missing      []Missing `json:"missing,omitempty"`
	MissingCount int       `json:"missing-count,omitempty"` // more than are named, if there are too many
}

// enoughRuns is the launch before which superseded data goes: the revision has run
// at least once by then.
const enoughRuns = 2

func newID() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// dir is a directory with data of some revision.
type dir struct {
	name     string // below base
	base     string
	revision uint32 // the number in the name
	recorded bool   // else the record is an assumption
	foreign  bool   // no record, and nothing is known of it
	record
}

func (d *dir) path() string { return filepath.Join(d.base, d.name) }

func (d *dir) usedBy(store string, rev uint32) bool {
	return slices.Contains(d.Uses, Use{store, rev})
}

func (d *dir) usedByStore(store string) bool {
	return slices.ContainsFunc(d.Uses, func(u Use) bool { return u.Store == store })
}

// parseName splits the name of a directory, NUMBER or NUMBER.SUFFIX.
func parseName(name string) (rev uint32, ok bool) {
	digits, _, _ := strings.Cut(name, ".")
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), err == nil && n > 0 && number(uint32(n)) == digits
}

// state is what is there of an instance at one moment.
type state struct {
	Place
	dirs []*dir // by counter, the newest last
}

// scan reads what is there. A directory that does not exist has nothing in it.
func (p Place) scan() (*state, error) {
	s := &state{Place: p}
	if err := s.read(p.Base, true); err != nil {
		return nil, err
	}
	if p.old != "" {
		if err := s.read(p.old, false); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(s.dirs, func(a, b *dir) int {
		switch {
		case a.Counter != b.Counter && a.Counter < b.Counter:
			return -1
		case a.Counter != b.Counter:
			return 1
		}
		return int(int64(a.revision) - int64(b.revision))
	})
	return s, nil
}

// read adds the directories below base. Those of the directory before this one count
// only if they were adopted.
func (s *state) read(base string, own bool) error {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		rev, ok := parseName(e.Name())
		if !ok || !e.IsDir() {
			continue
		}
		d := &dir{name: e.Name(), base: base, revision: rev}
		r, err := readRecord(base, d.name)
		switch {
		case err == nil && own:
			d.record, d.recorded = r, true
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errRecord):
			return err
		default:
			s.assume(d)
			if !own && (err == nil || d.foreign) {
				continue // the data of the system's agent
			}
		}
		s.dirs = append(s.dirs, d)
	}
	return nil
}

// assume fills in what is taken to be true of a directory without a record.
func (s *state) assume(d *dir) {
	d.Complete = true
	if name := number(d.revision); d.name == name && (s.store.ID == "" || d.revision <= s.store.Adopt[s.Instance]) {
		d.Uses = []Use{{s.store.ID, d.revision}}
		d.Package = s.packageOf(d.revision)
		return
	}
	d.foreign = true
}

var errRecord = errors.New("it is damaged")

func recordPath(base, name string) string { return filepath.Join(base, records, name+".json") }

func readRecord(base, name string) (record, error) {
	var r record
	f, err := os.OpenFile(recordPath(base, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return r, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil || r.ID == "" {
		return record{}, errRecord
	}
	return r, nil
}

// write has the record of a directory on stable storage.
func (d *dir) write() error {
	if len(d.Missing) > maxMissing {
		d.Missing = d.Missing[:maxMissing]
	}
	b, err := json.Marshal(d.record)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Join(d.base, records), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(recordPath(d.base, d.name), append(b, '\n'), 0o600)
}

func (d *dir) removeRecord() error {
	err := durable.Remove(recordPath(d.base, d.name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// packageOf is the hash of a revision's package; empty if the store does not keep it.
func (p Place) packageOf(rev uint32) string {
	target, err := os.Readlink(p.link(rev))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func (p Place) link(rev uint32) string {
	return filepath.Join(p.Root, "revisions", p.Instance, number(rev))
}

// keeps reports whether the store still keeps a revision.
func (p Place) keeps(rev uint32) bool {
	_, err := os.Lstat(p.link(rev))
	return err == nil
}

// from reads which revision's data rev has taken over; 0 if none. It is an
// error if rev is not recorded any more.
func (p Place) from(rev uint32) (uint32, error) {
	b, err := os.ReadFile(p.link(rev) + ".from")
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Lstat(p.link(rev))
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return uint32(n), err
}

// short names the store in a directory's name.
func (p Place) short() string {
	if s := p.store.Short(); s != "" {
		return s
	}
	return "0000"
}

// freeName is the name for a new directory of a revision: one that no directory has,
// whosever it is.
func (s *state) freeName(rev uint32) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(s.dirs, func(d *dir) bool { return d.base == s.Base && d.name == name })
	}
	name := number(rev)
	for n := 1; taken(name); n++ {
		name = number(rev) + "." + s.short()
		if n > 1 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
	}
	return name
}
