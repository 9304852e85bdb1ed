package disk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
)

// pageSize is what the disk writes as a whole or not at all, aligned: the
// physical block of today's disks, which file systems count on.
const pageSize = 4096

type page [pageSize]byte

var errNoPower = errors.New("the power is off")

// write is a pending write. Without data it is of zeros.
type write struct {
	off  int64
	n    int
	data []byte
}

// Disk is a disk with a volatile cache.
type Disk struct {
	base *os.File
	size int64

	mu      sync.Mutex
	stable  map[int64]*page // by number; what differs from the base
	view    map[int64]*page // what the machine reads, where pending writes made it differ from stable
	pending []write
	off     bool // without power: what still arrives does not count
	counts  Counts
	hook    func(Event, Counts) bool
}

// Event is the argument of a hook.
type Event int

// A hook is called before a write or a flush takes effect.
const (
	Write Event = iota
	Flush
)

// Counts are the events since the power was last switched on.
type Counts struct{ Writes, Flushes int }

// Fate decides about pending writes when the power is cut.
type Fate int

// The fates of pending writes.
const (
	KeepAll Fate = iota // as if the disk had just written everything
	LoseAll             // the cache is gone
	Prefix              // the disk wrote in order, and stopped within a write
	Scatter             // the disk wrote in any order
	Fates
)

func (f Fate) String() string {
	return [...]string{"all kept", "all lost", "lost from some point on", "lost here and there"}[f]
}

// Open makes a disk over a file; with size it is that large, and zeros follow
// the file.
func Open(base string, size int64) (*Disk, error) {
	f, err := os.Open(base)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	size = max(size, st.Size())
	size = (size + pageSize - 1) / pageSize * pageSize
	return &Disk{base: f, size: size, stable: map[int64]*page{}, view: map[int64]*page{}}, nil
}

// Close gives the base back.
func (d *Disk) Close() error { return d.base.Close() }

// Size is in bytes.
func (d *Disk) Size() int64 { return d.size }

// Hook registers f, which is called before every write and flush. If it
// returns true, the power is cut right there: neither that one nor any later
// one counts or is answered, so that no program goes on as if it had been
// done.
func (d *Disk) Hook(f func(Event, Counts) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = f
}

// Counts returns the number of writes and flushes since the power is on.
func (d *Disk) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

// PowerOff cuts the power: from now on no request counts or is
// answered.
func (d *Disk) PowerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// PowerOn switches the disk on again after the pending writes met their fate;
// it returns their number. After a clean shutdown, none is pending.
func (d *Disk) PowerOn(fate Fate, rng *rand.Rand) (pending int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.view = map[int64]*page{}
	pending = len(d.pending)
	survivors := d.pending
	torn := -1
	switch fate {
	case LoseAll:
		survivors = nil
	case Prefix:
		if pending > 0 {
			torn = rng.IntN(pending)
			survivors = survivors[:torn+1]
		}
	}
	for i, w := range survivors {
		switch {
		case fate == Scatter && rng.IntN(2) == 0:
			continue
		case i == torn, fate == Scatter && rng.IntN(8) == 0:
			w = w.torn(rng)
		}
		d.apply(d.stable, w)
	}
	d.pending, d.off, d.hook, d.counts = nil, false, nil, Counts{}
	return pending
}

// torn cuts a write off at the end of a physical block, or before it has begun.
func (w write) torn(rng *rand.Rand) write {
	first := pageSize - int(w.off%pageSize)
	blocks := 1 + (w.n-first+pageSize-1)/pageSize // that it reaches into
	if k := rng.IntN(blocks + 1); k == 0 {
		w.n = 0
	} else {
		w.n = min(w.n, first+(k-1)*pageSize)
	}
	return w
}

// apply writes into a set of pages. The caller holds mu.
func (d *Disk) apply(pages map[int64]*page, w write) {
	for done := 0; done < w.n; {
		at := w.off + int64(done)
		number, within := at/pageSize, int(at%pageSize)
		n := min(w.n-done, pageSize-within)
		p := pages[number]
		if p == nil {
			p = new(page)
			if n < pageSize {
				d.readPage(number, p)
			}
			pages[number] = p
		}
		if w.data == nil {
			clear(p[within : within+n])
		} else {
			copy(p[within:within+n], w.data[done:done+n])
		}
		done += n
	}
}

// readPage fills p with what the machine sees. The caller holds mu.
func (d *Disk) readPage(number int64, p *page) {
	if v := d.view[number]; v != nil {
		*p = *v
		return
	}
	d.readStable(number, p)
}

func (d *Disk) readStable(number int64, p *page) error {
	if s := d.stable[number]; s != nil {
		*p = *s
		return nil
	}
	n, err := d.base.ReadAt(p[:], number*pageSize)
	clear(p[n:])
	if err == io.EOF {
		err = nil
	}
	return err
}

func (d *Disk) inside(off int64, n int) error {
	if off < 0 || n < 0 || off+int64(n) > d.size {
		return fmt.Errorf("cannot reach %d bytes at %d: the disk ends at %d", n, off, d.size)
	}
	return nil
}

// ReadAt reads what the machine sees.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	if err := d.inside(off, len(b)); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for done := 0; done < len(b); {
		at := off + int64(done)
		number, within := at/pageSize, int(at%pageSize)
		n := min(len(b)-done, pageSize-within)
		if p := d.view[number]; p != nil {
			copy(b[done:done+n], p[within:])
		} else if p := d.stable[number]; p != nil {
			copy(b[done:done+n], p[within:])
		} else {
			// As much as the base has in one go.
			for end := number + 1; done+n < len(b) && d.view[end] == nil && d.stable[end] == nil; end++ {
				n = min(len(b)-done, n+pageSize)
			}
			got, err := d.base.ReadAt(b[done:done+n], at)
			if err != nil && err != io.EOF {
				return done, err
			}
			clear(b[done+got : done+n])
		}
		done += n
	}
	return len(b), nil
}

// write remembers a write; data is kept, nil is n zeros.
func (d *Disk) write(off int64, n int, data []byte) error {
	if err := d.inside(off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.happens(Write) {
		return errNoPower
	}
	w := write{off, n, data}
	d.apply(d.view, w)
	d.pending = append(d.pending, w)
	d.counts.Writes++
	return nil
}

// flush makes stable what was written.
func (d *Disk) flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.happens(Flush) {
		return errNoPower
	}
	for number, p := range d.view {
		d.stable[number] = p
	}
	clear(d.view)
	d.pending = nil
	d.counts.Flushes++
	return nil
}

// Change writes b as a machine would, and flushes it. No machine uses the disk meanwhile.
func (d *Disk) Change(b []byte, off int64) error {
	if err := d.write(off, len(b), b); err != nil {
		return err
	}
	return d.flush()
}

// happens reports whether an arrived request counts. The caller holds mu.
func (d *Disk) happens(e Event) bool {
	if !d.off && d.hook != nil && d.hook(e, d.counts) {
		d.off = true
	}
	return !d.off
}

// Save writes the stable content into a file, for inspection.
func (d *Disk) Save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(d.size); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var p, zero page
	for number := range d.size / pageSize {
		if err := d.readStable(number, &p); err != nil {
			return err
		}
		if p == zero {
			continue
		}
		if _, err := f.WriteAt(p[:], number*pageSize); err != nil {
			return err
		}
	}
	return f.Close()
}
