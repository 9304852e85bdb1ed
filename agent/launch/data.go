package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/datacopy"
	"github.com/lull/lull/agent/problem"
)

// userData makes the folders of the user's data,
//
//	~/.local/share/lull/<instance>/<rev>   of this revision
//	~/.local/share/lull/<instance>/common  of all
//
// and brings the data of the revision before over, if this one has none yet.
// A package without versioned data has only the second.
func (l *launch) userData(ctx context.Context) (data, common string, err error) {
	home, err := homeFolder()
	if err != nil {
		return "", "", within(err, "it has no place for its data")
	}
	base := filepath.Join(home, ".local", "share", "lull", l.Instance)
	common = filepath.Join(base, "common")
	data = common
	if l.versions {
		data = filepath.Join(base, strconv.FormatUint(uint64(l.rev), 10))
	}
	// XDG Base Directory: what is made on the way is the user's alone.
	if err := os.MkdirAll(common, 0o700); err != nil {
		return "", "", within(err, "it has no place for its data")
	}
	if isFolder(data) {
		return data, common, nil
	}
	unlock, err := l.lockData(ctx, filepath.Join(base, ".lock"))
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if isFolder(data) {
		return data, common, nil // somebody else was faster
	}
	from := l.ancestor(func(rev uint32) bool {
		return isFolder(filepath.Join(base, strconv.FormatUint(uint64(rev), 10)))
	}, revisionsIn(base))
	if from == 0 {
		if err := os.Mkdir(data, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", "", within(err, "it has no place for its data")
		}
		return data, common, nil
	}
	if err := l.bringOver(ctx, filepath.Join(base, strconv.FormatUint(uint64(from), 10)), data); err != nil {
		return "", "", problem.New(problem.KindOf(err), "the data of revision %d cannot be brought over: %w", from, err)
	}
	return data, common, nil
}

// homeFolder is where the user's data lies. Root does not write into the home
// of somebody else, as which HOME may stand after sudo.
func homeFolder() (string, error) {
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", problem.New(problem.Failed, "HOME is %q, which is no absolute path", home)
	}
	if os.Getuid() != 0 {
		return home, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(home, &st); err != nil {
		return "", problem.New(problem.Failed, "%s: %w", home, err)
	}
	if st.Uid != 0 {
		return "", problem.New(problem.NotPermitted, "the home folder %s belongs to another user", home).
			WithHint("run it as that user, or with HOME=/root")
	}
	return home, nil
}

func isFolder(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// lockData makes the user's launches, and the session helper, take turns.
func (l *launch) lockData(ctx context.Context, path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, problem.New(problem.KindOf(err), "its data cannot be locked: %s: %w", path, err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &whole)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		if isTerminal(l.Stderr) {
			fmt.Fprintf(l.Stderr, "lull: %s waits: its data is being brought over\n", l.Instance)
		}
		done := make(chan error, 1)
		go func() {
			for {
				if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLKW, &whole); !errors.Is(err, unix.EINTR) {
					done <- err
					return
				}
			}
		}()
		select {
		case err = <-done:
		case <-ctx.Done():
			return nil, context.Cause(ctx) // the process is about to end
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, problem.New(problem.KindOf(err), "its data cannot be locked: %s: %w", path, err)
	}
	return func() { unix.Close(fd) }, nil
}

// ancestor finds the revision whose data this one takes over: the nearest
// before it, by the .from files, of which the user has data. 0: none. Where the
// chain is broken, because the agent has forgotten a revision, the youngest of
// the user's that is older than the gap is taken.
func (l *launch) ancestor(has func(rev uint32) bool, known []uint32) uint32 {
	seen := map[uint32]bool{l.rev: true}
	for rev := l.rev; ; {
		before, err := l.from(rev)
		if err != nil || seen[before] {
			return youngestBefore(known, rev)
		}
		if before == 0 || has(before) {
			return before
		}
		seen[before] = true
		rev = before
	}
}

// from reads which revision's data rev has taken over; 0: none. It is an error
// if nothing is known of rev any more.
func (l *launch) from(rev uint32) (uint32, error) {
	b, err := os.ReadFile(l.revision(rev) + ".from")
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Lstat(l.revision(rev))
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return uint32(n), err
}

// revisionsIn lists the revisions of which there is data in a folder.
func revisionsIn(base string) (list []uint32) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil && n > 0 && n <= math.MaxUint32 && e.IsDir() {
			list = append(list, uint32(n))
		}
	}
	return list
}

func youngestBefore(known []uint32, rev uint32) (best uint32) {
	for _, k := range known {
		if k < rev {
			best = max(best, k)
		}
	}
	return best
}

// bringOver copies data, and shows how far it is on a terminal.
func (l *launch) bringOver(ctx context.Context, src, dst string) error {
	p := progress{out: l.Stderr, name: l.Instance}
	// The session helper, which copies ahead of us, uses the same name.
	opts := datacopy.Options{Partial: "." + filepath.Base(dst) + datacopy.PartialSuffix}
	if isTerminal(l.Stderr) {
		opts.Progress = p.show
	}
	_, err := datacopy.Copy(ctx, src, dst, opts)
	p.end()
	return err
}

// progress is a line that is drawn over itself.
type progress struct {
	out   *os.File
	name  string
	last  time.Time
	drawn bool
}

const redraw = 100 * time.Millisecond

func (p *progress) show(done, total int64) {
	if now := time.Now(); now.Sub(p.last) >= redraw {
		p.last, p.drawn = now, true
		fmt.Fprintf(p.out, "\r\x1b[Klull: bringing the data of %s over: %s", p.name, fraction(done, total))
	}
}

func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func fraction(done, total int64) string {
	if total <= 0 {
		return megabytes(done)
	}
	return fmt.Sprintf("%d%% of %s", min(done, total)*100/total, megabytes(total))
}

func megabytes(n int64) string {
	if n < 10_000_000 {
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
	}
	return strconv.FormatInt(n/1_000_000, 10) + " MB"
}
