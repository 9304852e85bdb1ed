package vacancy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/printable"
)

// Inode identifies a file regardless of its paths.
type Inode struct{ Dev, Ino uint64 }

// Leases are the write leases of this process.
type Leases struct {
	mu   sync.Mutex // guards what follows
	open map[Inode]*entry
}

// entry is an open inode, with at the most one lease.
type entry struct {
	fd       int
	unproved error // why a lease proves nothing, or not enough; nil means that it does
	refs     int   // seals that have it open
	leases   int   // seals that have taken its lease
	since    time.Time
}

// NewLeases returns an empty set.
func NewLeases() *Leases { return &Leases{open: map[Inode]*entry{}} }

// Read calls read with a file that a seal has leased, through the seal's own
// descriptor: an open, by this process too, would wait and break the lease in the end.
// Where no seal has the lease it does nothing and returns false. The seal may be closed
// meanwhile.
func (l *Leases) Read(in Inode, read func(io.ReaderAt)) bool {
	l.mu.Lock()
	e := l.open[in]
	if e == nil || e.leases == 0 {
		l.mu.Unlock()
		return false
	}
	e.refs++
	l.mu.Unlock()
	defer l.drop(&File{Inode: in, entry: e})
	read(descriptor(e.fd))
	return true
}

// descriptor reads without an offset of its own.
type descriptor int

func (d descriptor) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		m, err := unix.Pread(int(d), b[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		default:
			n += m
		}
	}
	return n, nil
}

// File is a file of a seal.
type File struct {
	Path  string
	Inode Inode

	entry *entry
	taken bool
}

// Seal is the leases of one instance. It belongs to one goroutine.
type Seal struct {
	leases *Leases
	tether *File // nil if there is none
	files  []*File
	busy   []*File // another process had a lease or the like when they were opened
	gone   []string
}

// Result is what became of an attempt to take leases.
type Result struct {
	Tether  bool    // the tether was denied; nothing else was tried
	Denied  []*File // other processes use them
	Refused []*File // no lease is possible, or it is no proof: only a scan can decide
	Cause   error   // why leases were refused
}

// Granted reports whether every lease was taken.
func (r Result) Granted() bool { return !r.Tether && len(r.Denied) == 0 && len(r.Refused) == 0 }

// Open opens the files of a seal and takes no lease yet. Tether is a path, "" for
// none; it is opened for writing, so that closing it is no event for those who wait
// for its release. A file that does not exist is left out: Gone lists those.
func (l *Leases) Open(tether string, files []string) (*Seal, error) {
	s := &Seal{leases: l}
	if tether != "" {
		f, err := l.add(tether, unix.O_RDWR)
		if err != nil {
			return nil, fmt.Errorf("cannot open the tether: %w", err)
		}
		s.tether = f
	}
	seen := map[Inode]bool{}
	for _, path := range files {
		f, err := l.add(path, unix.O_RDONLY)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotRegular):
			s.gone = append(s.gone, path)
			continue
		case err != nil:
			s.Close()
			return nil, fmt.Errorf("cannot open a file of the package: %w", err)
		case seen[f.Inode]: // two names of one file
			l.drop(f)
			continue
		}
		seen[f.Inode] = true
		if f.entry == nil {
			s.busy = append(s.busy, f)
		} else {
			s.files = append(s.files, f)
		}
	}
	return s, nil
}

var errNotRegular = errors.New("it is no regular file")

// add opens one file, or shares what another seal has open: a second open of a leased
// inode would break the lease. A File without entry is leased by another process.
func (l *Leases) add(path string, flags int) (*File, error) {
	fd, err := openAgain(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	f := &File{Path: path, Inode: Inode{st.Dev, st.Ino}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.open[f.Inode]; e != nil {
		e.refs++
		f.entry = e
		return f, nil
	}
	own, err := openAgain("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ETXTBSY) {
		return f, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f.entry = &entry{fd: own, refs: 1, unproved: unproved(own)}
	l.open[f.Inode] = f.entry
	return f, nil
}

// errOverlay is about a file of an overlay: the kernel counts a mapping of it at the
// file below, so that a lease sees executions and descriptors only.
var errOverlay = errors.New("the file system is an overlay, whose leases do not see mappings")

// errRemote is about a file of a network file system. Its leases are up to the server: NFS 4
// denies one whenever the server has not delegated the file, although no process uses it.
var errRemote = errors.New("a network file system has leases that prove nothing")

// remote are the network file systems, see statfs(2).
var remote = []int64{unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.V9FS_MAGIC}

// unproved returns why a granted lease of a file does not prove that no process uses it.
func unproved(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Type == unix.OVERLAYFS_SUPER_MAGIC:
		return errOverlay
	case slices.Contains(remote, int64(uint32(st.Type))):
		return errRemote
	}
	return nil
}

func openAgain(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// drop gives up what add has opened.
func (l *Leases) drop(f *File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseLocked(f)
	l.closeLocked(f)
}

func (l *Leases) closeLocked(f *File) {
	e := f.entry
	if e == nil {
		return
	}
	f.entry = nil
	if e.refs--; e.refs == 0 {
		delete(l.open, f.Inode)
		unix.Close(e.fd)
	}
}

// releaseLocked gives a lease back; those who wait for it go on.
func (l *Leases) releaseLocked(f *File) {
	if !f.taken {
		return
	}
	f.taken = false
	if f.entry.leases--; f.entry.leases == 0 {
		_, _ = unix.FcntlInt(uintptr(f.entry.fd), unix.F_SETLEASE, unix.F_UNLCK) // closing the descriptor does the same
	}
}

// Gone lists the files that were not there when the seal was opened.
func (s *Seal) Gone() []string { return s.gone }

// Files returns the files of the seal without the tether.
func (s *Seal) Files() []*File { return s.files }

// Denied returns the files that another process had leased when the seal was opened.
func (s *Seal) Denied() []*File { return s.busy }

// Tether returns the tether; nil means there is none.
func (s *Seal) Tether() *File { return s.tether }

// Take takes the leases that the seal does not have yet, the tether's first.
// If that one is denied, no other is tried. Granted leases stay, whatever the
// result is: Release releases them.
func (s *Seal) Take() Result {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	r := Result{Denied: slices.Clone(s.busy)}
	if s.tether != nil {
		switch err := s.leases.takeLocked(s.tether); {
		case errors.Is(err, errDenied):
			return Result{Tether: true}
		case err != nil:
			r.Refused, r.Cause = append(r.Refused, s.tether), err
		}
	}
	for _, f := range s.files {
		switch err := s.leases.takeLocked(f); {
		case errors.Is(err, errDenied):
			r.Denied = append(r.Denied, f)
		case err != nil:
			r.Refused, r.Cause = append(r.Refused, f), err
		case f.entry.unproved != nil: // the lease holds all the same
			r.Refused, r.Cause = append(r.Refused, f), f.entry.unproved
		}
	}
	return r
}

var errDenied = errors.New("another process uses the file")

func (l *Leases) takeLocked(f *File) error {
	e := f.entry
	if f.taken {
		return nil
	}
	if e == nil {
		return errDenied
	}
	if e.leases > 0 {
		if !e.whole() {
			return errDenied // the kernel is taking it away
		}
		e.leases++
		f.taken = true
		return nil
	}
	if errors.Is(e.unproved, errRemote) {
		return errRemote
	}
	_, err := unix.FcntlInt(uintptr(e.fd), unix.F_SETLEASE, unix.F_WRLCK)
	switch err {
	case nil:
		e.leases, e.since, f.taken = 1, time.Now(), true
		return nil
	case unix.EAGAIN:
		return errDenied
	}
	return err
}

// whole reports whether the lease is what it was when it was taken.
func (e *entry) whole() bool {
	have, err := unix.FcntlInt(uintptr(e.fd), unix.F_GETLEASE, 0)
	return err == nil && have == unix.F_WRLCK
}

// Release gives the leases of the files back and, with all set, that of the tether.
func (s *Seal) Release(all bool) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for _, f := range s.files {
		s.leases.releaseLocked(f)
	}
	if all && s.tether != nil {
		s.leases.releaseLocked(s.tether)
	}
}

// Forget takes files out of the seal.
func (s *Seal) Forget(drop func(*File) bool) (left []*File) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	keep := s.files[:0]
	for _, f := range s.files {
		if !drop(f) {
			keep = append(keep, f)
			continue
		}
		s.leases.releaseLocked(f)
		s.leases.closeLocked(f)
		left = append(left, f)
	}
	s.files = keep
	return left
}

// Close gives everything back. A second call does nothing.
func (s *Seal) Close() {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for _, f := range append(s.files, s.tether) {
		if f != nil {
			s.leases.releaseLocked(f)
			s.leases.closeLocked(f)
		}
	}
	s.files, s.tether, s.busy = nil, nil, nil
}

// Lost is the error about a lease that the kernel may have taken away.
type Lost struct {
	Path string
	Held time.Duration
}

func (l *Lost) Error() string {
	return fmt.Sprintf("cannot keep %s to itself: another process has waited for it for as long as the kernel permits (%s)", l.Path, printable.Duration(l.Held))
}

// Intact returns nil if no process can have opened a leased file since its lease was
// taken; else a *Lost. An open that waits breaks the lease by force only after
// fs.lease-break-time, so that one which was taken less than that ago still holds.
func (s *Seal) Intact() error {
	limit := breakTime()
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for _, f := range append([]*File{s.tether}, s.files...) {
		if f == nil || !f.taken || f.entry.whole() {
			continue
		}
		if held := time.Since(f.entry.since); limit > 0 && held >= limit-margin {
			return &Lost{f.Path, held}
		}
	}
	return nil
}

// margin is for the clocks: the kernel counts ticks.
const margin = time.Second

// breakTime is how long the kernel lets an open wait for the holder of a lease; zero
// means without end (proc_sys_fs(5)).
func breakTime() time.Duration {
	b, err := os.ReadFile("/proc/sys/fs/lease-break-time")
	if err != nil {
		return margin // nothing is certain
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil || n < 0 {
		return margin
	}
	return time.Duration(n) * time.Second
}

// Probe reports why leases cannot be had of files in a directory; nil means that they
// can. It makes a file there and removes it.
func Probe(dir string) error {
	f, err := os.CreateTemp(dir, ".lease.*")
	if err != nil {
		return fmt.Errorf("cannot try a lease in %s: %w", dir, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := unproved(int(f.Fd())); errors.Is(err, errRemote) {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return fmt.Errorf("cannot take a lease in %s: %w", dir, err)
	}
	return nil
}

// Patience is how long after the end of a process, or after inotify's word that a file
// was closed, the kernel may still count it as open. Retry tries for as long.
const Patience = 100 * time.Millisecond

// Retry calls try until it returns true or Patience is over, with growing pauses from
// a tenth of a millisecond, and returns what it returned last.
func Retry(try func() bool) bool {
	for pause, spent := 100*time.Microsecond, time.Duration(0); ; pause *= 2 {
		if try() {
			return true
		}
		if spent += pause; spent > Patience {
			return false
		}
		time.Sleep(pause) // no event comes when the kernel has released a file
	}
}
