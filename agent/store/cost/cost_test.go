package cost_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store/cost"
	"github.com/lull/lull/agent/store/storetest"
)

// source is a repository whose reads may wait, or return other bytes.
type source struct {
	*storetest.Repo
	reached, goOn chan struct{} // nil if it does not wait
	other         bool
}

func (s source) Blob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	if s.reached != nil {
		close(s.reached)
		<-s.goOn
	}
	if s.other {
		return io.NopCloser(strings.NewReader("other")), nil
	}
	return s.Repo.Blob(ctx, d, offset)
}

// TestCost: a file that two packages have counts once, and what the store has not at all.
func TestCost(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	sub := r.Package(t, storetest.Spec{Name: "runtime", Files: map[string]string{"same": "same", "libc": "libc"}})
	pkg := r.Package(t, storetest.Spec{Name: "app", Version: "1", Subs: map[string]digest.Digest{"rt": sub}, Files: map[string]string{"a": "same", "b": "bytes"}})
	size := func(pkgs ...digest.Digest) (n int64) {
		for _, p := range pkgs {
			n += int64(len(r.Content(p)))
		}
		return n
	}
	costs := cost.New(s)
	if _, err := costs.Of(t.Context(), pkg, nil); !errors.Is(err, cost.ErrUnknown) {
		t.Errorf("without a source: %v", err)
	}
	want := cost.Cost{Fetch: size(pkg, sub) + 4 + 4 + 5, Write: 5 * 4096}
	for _, src := range []*storetest.Repo{r, r} {
		if got, err := costs.Of(t.Context(), pkg, src); err != nil || got != want {
			t.Errorf("%+v, want %+v: %v", got, want, err)
		}
	}
	if n := r.Fetches(pkg); n != 1 {
		t.Errorf("the manifest was read %d times, want 1", n)
	}
	r.Put(t, s, sub)
	want = cost.Cost{Fetch: size(pkg) + 5, Write: 2 * 4096}
	if got, err := costs.Of(t.Context(), pkg, r); err != nil || got != want {
		t.Errorf("with the subpackage: %+v, want %+v: %v", got, want, err)
	}
	r.Put(t, s, pkg)
	if got, err := costs.Of(t.Context(), pkg, nil); err != nil || got != (cost.Cost{}) {
		t.Errorf("of what is here: %+v, %v; want no error and %v", got, err, (cost.Cost{}))
	}
}

func TestAltered(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	pkg := r.Package(t, storetest.Spec{Name: "app", Version: "1", Files: map[string]string{"a": "a"}})
	if _, err := cost.New(s).Of(t.Context(), pkg, source{Repo: r, other: true}); !errkind.Is(err, errkind.Untrusted) {
		t.Errorf("got %v, want an error of kind %v", err, errkind.Untrusted)
	}
}

// TestBesideASlowOne: a reading from a slow repository does not delay another one.
func TestBesideASlowOne(t *testing.T) {
	s, r := storetest.Open(t), storetest.New()
	slow := r.Package(t, storetest.Spec{Name: "slow", Version: "1", Files: map[string]string{"a": "a"}})
	fast := r.Package(t, storetest.Spec{Name: "fast", Version: "1", Files: map[string]string{"a": "a"}})
	costs := cost.New(s)
	waits := source{Repo: r, reached: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := costs.Of(t.Context(), slow, waits)
		done <- err
	}()
	<-waits.reached
	if _, err := costs.Of(t.Context(), fast, r); err != nil {
		t.Error(err)
	}
	close(waits.goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
