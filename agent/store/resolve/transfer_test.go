package resolve_test

import (
	"context"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/storetest"
)

// drip delivers everything in drops of a hundred bytes, a pause before each,
// and stops at one of them until it is released.
type drip struct {
	src    resolve.Source
	pause  time.Duration
	drops  int // before the stop; 0 means no stop
	letGo  chan struct{}
	became int
}

func (d *drip) Blob(ctx context.Context, b digest.Digest, offset int64) (io.ReadCloser, error) {
	in, err := d.src.Blob(ctx, b, offset)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{drops{d, in}, in}, nil
}

type drops struct {
	d  *drip
	in io.Reader
}

func (r drops) Read(b []byte) (int, error) {
	time.Sleep(r.d.pause)
	if r.d.became++; r.d.became == r.d.drops {
		<-r.d.letGo
	}
	return r.in.Read(b[:min(len(b), 100)])
}

// TestTransfers: a transfer is shown as long as it is in the writing index; it
// is reported no more often than agreed, the last report is never dropped, and
// while nothing arrives there are no reports.
func TestTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.res.Parallel = 1
		pkg := w.r.Package(t, storetest.Spec{Name: "slow", Version: "7", Files: map[string]string{
			"a": strings.Repeat("a", 10_000), "b": strings.Repeat("b", 10_000), "c": "small"}})
		type word struct {
			at   time.Time
			list []resolve.Transfer
		}
		var mu sync.Mutex // guards words
		var words []word
		w.res.Progressed = func() {
			mu.Lock()
			defer mu.Unlock()
			words = append(words, word{time.Now(), w.res.Transfers()})
		}
		heard := func() []word {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(words)
		}
		began := time.Now()
		var shown []string
		w.ix.OnChange(func(name string) {
			for _, x := range w.res.Transfers() {
				shown = append(shown, x.Holder)
			}
			if got, want := len(w.res.Transfers()), len(w.ix.Of(index.WritingIndex)); got != want {
				t.Errorf("%d transfers beside %d entries of the writing index", got, want)
			}
		})

		d := &drip{src: w.r, pause: 20 * time.Millisecond, drops: 150, letGo: make(chan struct{})}
		ended := make(chan error, 1)
		var speed atomic.Int64
		go func() {
			ended <- w.res.Resolve(context.Background(), pkg, d, "a test", func(p resolve.Progress) { speed.Store(p.Speed) })
		}()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		now := w.res.Transfers()
		if len(now) != 1 || now[0].Package != pkg || now[0].Name != "slow 7" || now[0].Holder != "a test" || !now[0].Since.Equal(began) ||
			now[0].Total != 20_005 || now[0].Done <= 0 || now[0].Done >= now[0].Total || now[0].Done%100 != 0 && now[0].Done%100 != 5 || now[0].Missing < 1 || now[0].Missing > 2 {
			t.Errorf("in the middle: got %+v, want one of %s, %q for %q since %v, with a part of 20005 bytes done and 1 or 2 blobs missing", now, pkg, "slow 7", "a test", began)
		}
		if got := speed.Load(); got < 4800 || got > 5100 { // the first drop is counted with its pause
			t.Errorf("%d bytes a second, want about 5000: 100 in 20 ms", got)
		}
		told := heard()
		if last := told[len(told)-1].list; !reflect.DeepEqual(last, now) {
			t.Errorf("told last: %+v\nwhere it is: %+v", last, now)
		}
		time.Sleep(time.Hour)
		if more := len(heard()) - len(told); more != 0 {
			t.Errorf("told %d times more while nothing arrived, want 0", more)
		}
		close(d.letGo)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got := speed.Load(); got != 0 {
			t.Errorf("%d bytes a second after the end, want 0", got)
		}
		time.Sleep(time.Minute)
		if left := w.res.Transfers(); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
		if !slices.Equal(shown, []string{"a test"}) {
			t.Errorf("shown when indices changed: got %v, want shown %v", shown, []string{"a test"})
		}
		told = heard()
		var done int64
		missing := 1 << 20
		for i, x := range told {
			if i > 0 && x.at.Sub(told[i-1].at) < 500*time.Millisecond {
				t.Errorf("told %v after it had been, want at least 500ms between", x.at.Sub(told[i-1].at))
			}
			if len(x.list) != 1 {
				t.Fatalf("told of %d transfers, want 1", len(x.list))
			}
			one := x.list[0]
			if one.Name != "" && one.Total > 0 {
				if one.Done < done || one.Missing > missing {
					t.Errorf("it goes back from %d bytes, %d blobs missing, to %+v", done, missing, one)
				}
				done, missing = one.Done, one.Missing
			}
		}
		if len(told) < 8 {
			t.Errorf("told %d times, want at least 8", len(told))
		}
	})
}
