package copytree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// changed is the change time of a file.
func changed(t *testing.T, path string) unix.Timespec {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ctim
}

// TestSameTick writes a file before and after a precopy, within one tick of the
// clock that the file system goes by: a second, so that it is sure to happen.
// The inode is then the same both times.
func TestSameTick(t *testing.T) {
	top := smallInodes(t)
	for name, c := range map[string]struct {
		precopy func(src, dst string)
		misses  bool
	}{
		"too fresh to tell": {func(src, dst string) {
			_, err := Precopy(t.Context(), src, dst, Options{})
			must(t, err)
		}, false},
		// The proof that there is something to be missed.
		"nothing is too fresh": {func(src, dst string) { precopy(t, src, dst) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			same, missed := 0, 0
			for i := range 60 {
				src := fmt.Sprintf("%s/%t-%d", top, c.misses, i)
				dst := src + ".copy"
				first, last := fmt.Sprintf("first %02d", i), fmt.Sprintf("last  %02d", i)
				put(t, src+"/file", first)
				before := changed(t, src+"/file")
				c.precopy(src, dst)
				must(t, writeAt(src+"/file", last, 0))
				if changed(t, src+"/file") == before {
					same++
				}
				_, err := Copy(t.Context(), src, dst, Options{})
				must(t, err)
				got, err := os.ReadFile(dst + "/file")
				must(t, err)
				if string(got) != last {
					missed++
				}
			}
			if same == 0 {
				t.Fatal("no two writes came within one tick")
			}
			if missed > 0 != c.misses {
				t.Errorf("got %d of %d changes missed (%d within one tick), want some missed: %v", missed, 60, same, c.misses)
			}
		})
	}
}

// TestChangesDuringPrecopy has writers at work all the time, one by write(2), one
// through a mapping; what they wrote last is what the copy has.
func TestChangesDuringPrecopy(t *testing.T) {
	for _, c := range fileSystems {
		t.Run(c.name, func(t *testing.T) {
			top := c.mount(t)
			const size = 64 << 10
			rounds := 15
			if testing.Short() {
				rounds = 3
			}
			for round := range rounds {
				src := fmt.Sprintf("%s/%d", top, round)
				put(t, src+"/still", "never written again")
				for _, name := range []string{"written", "mapped", "grown"} {
					must(t, os.WriteFile(src+"/"+name, make([]byte, size), 0o644))
				}
				stop := make(chan struct{})
				var wg sync.WaitGroup
				writer := func(name string, open func(*os.File) (write func(n uint64), end func())) {
					f, err := os.OpenFile(src+"/"+name, os.O_RDWR, 0)
					must(t, err)
					write, end := open(f)
					started := make(chan struct{})
					wg.Go(func() {
						defer f.Close()
						defer end()
						for n := uint64(1); ; n++ {
							write(n)
							if n == 1 {
								close(started)
							}
							select {
							case <-stop:
								return
							default:
							}
						}
					})
					<-started
				}
				writer("written", func(f *os.File) (func(uint64), func()) {
					return func(n uint64) {
						f.WriteAt(binary.BigEndian.AppendUint64(nil, n), int64(n)*8%size)
					}, func() {}
				})
				writer("grown", func(f *os.File) (func(uint64), func()) {
					return func(n uint64) {
						f.Truncate(int64(size + n%4096))
					}, func() {}
				})
				writer("mapped", func(f *os.File) (func(uint64), func()) {
					m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
					must(t, err)
					return func(n uint64) {
						binary.BigEndian.PutUint64(m[n*8%size:], n)
					}, func() { unix.Munmap(m) }
				})
				var err error
				for range 2 { // the second takes over what the first has
					if _, perr := Precopy(t.Context(), src, src+".copy", Options{}); err == nil {
						err = perr
					}
				}
				close(stop)
				wg.Wait()
				must(t, err)
				_, err = Copy(t.Context(), src, src+".copy", Options{})
				must(t, err)
				for _, name := range []string{"still", "written", "mapped", "grown"} {
					want, err := os.ReadFile(src + "/" + name)
					must(t, err)
					got, err := os.ReadFile(src + ".copy/" + name)
					must(t, err)
					if !bytes.Equal(got, want) {
						t.Errorf("round %d: the copy of the file %q is not what was written last", round, name)
					}
				}
				must(t, os.RemoveAll(src))
				must(t, os.RemoveAll(src+".copy"))
			}
		})
	}
}

// TestStoreAfterThePrecopy: a page that was dirty when the precopy began is
// written to after it. The file was made long enough ago.
func TestStoreAfterThePrecopy(t *testing.T) {
	for _, c := range fileSystems {
		t.Run(c.name, func(t *testing.T) {
			if !c.notes {
				t.Skip("everything is copied again here")
			}
			src := c.mount(t) + "/1"
			must(t, os.Mkdir(src, 0o755))
			must(t, os.WriteFile(src+"/map", make([]byte, 8192), 0o644))
			f, err := os.OpenFile(src+"/map", os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err)
			defer unix.Munmap(m)
			m[0] = 1
			before := changed(t, src+"/map")
			_, err = run(t.Context(), src, src+".copy", Options{}, func(j *job) error {
				if _, err := j.flushSource(); err != nil {
					return err
				}
				return j.leaveBehind(time.Now().Add(time.Hour)) // only the flush is left to help
			})
			must(t, err)
			if before != changed(t, src+"/map") {
				t.Fatal("the precopy has changed the source")
			}
			if c.name == "ext4 with whole seconds" {
				awaitSecond(t, before.Sec+1)
			}
			m[0] = 2
			if changed(t, src+"/map") == before {
				t.Error("the store does not show in the change time")
			}
			_, err = Copy(t.Context(), src, src+".copy", Options{})
			must(t, err)
			data, err := os.ReadFile(src + ".copy/map")
			must(t, err)
			if data[0] != 2 {
				t.Error("the store was missed")
			}
		})
	}
}

// awaitSecond waits until the clock that files go by, which lags behind by up to
// a tick of the kernel, has come to a second.
func awaitSecond(t *testing.T, sec int64) {
	t.Helper()
	for {
		var now unix.Timespec
		must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now))
		if now.Sec >= sec {
			return
		}
		time.Sleep(max(time.Until(time.Unix(sec, 0)), time.Millisecond))
	}
}

// TestNotes: a precopy proves something only on a file system that notes the first store into
// a page that was flushed.
func TestNotes(t *testing.T) {
	for _, c := range fileSystems {
		t.Run(c.name, func(t *testing.T) {
			top := c.mount(t)
			put(t, top+"/1/file", "content")
			_, err := run(t.Context(), top+"/1", top+"/1.copy", Options{}, func(j *job) error {
				fresh, err := j.flushSource()
				if notes := !fresh.IsZero(); err != nil || notes != c.notes {
					t.Errorf("got notes %v and error %v, want %v and no error", notes, err, c.notes)
				}
				return err
			})
			must(t, err)
		})
	}
}
