package publish_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// series publishes versions of a package, an hour apart.
type series struct {
	t   *testing.T
	dir string
	now time.Time
}

func newSeries(t *testing.T) *series {
	return &series{t, initRepo(t), time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
}

func (s *series) publish(n string, o publish.Options) *publish.Result {
	s.t.Helper()
	s.now = s.now.Add(time.Hour)
	o.Now = s.now
	r, err := publish.Publish(s.t.Context(), s.dir, version(s.t, n), o)
	must(s.t, err)
	return r
}

// offered returns the deltas of a package that a channel offers.
func (s *series) offered(channel string, pkg digest.Digest) []delta.Offer {
	s.t.Helper()
	list, err := publish.ReadChannel(s.t.Context(), s.dir, publish.ChannelOptions{Name: "app", Channel: channel})
	must(s.t, err)
	for _, o := range list {
		if o.Package == pkg {
			return o.Deltas
		}
	}
	s.t.Errorf("%s does not offer %s", channel, pkg)
	return nil
}

func (s *series) timestamp() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "metadata", "timestamp.json"))
	must(s.t, err)
	return string(b)
}

// TestDeltasLater: a version is published before its packs are made, and signed a second
// time with them. Nothing is signed without need.
func TestDeltasLater(t *testing.T) {
	s := newSeries(t)
	s.publish("1", publish.Options{DeltasFrom: 3})
	two := s.publish("2", publish.Options{DeltasFrom: 3, WholePack: true})
	if two.Pending != 2 || len(two.Deltas) > 0 || len(s.offered("stable", two.Package)) > 0 || len(requests(t, s.dir)) != 1 {
		t.Fatalf("got %d packs to be made, %d made, offered %v, requests %v; want 2, 0, none and one request", two.Pending, len(two.Deltas), s.offered("stable", two.Package), requests(t, s.dir))
	}
	signed := s.timestamp()
	// An offer that was promoted before has them, too.
	_, err := publish.Promote(t.Context(), s.dir, publish.PromoteOptions{ChannelOptions: publish.ChannelOptions{Name: "app", Channel: "beta"}, From: "stable"})
	must(t, err)
	if s.timestamp() == signed {
		t.Error("nothing was promoted")
	}
	made, err := publish.MakeDeltas(t.Context(), s.dir, publish.DeltaOptions{Packages: []digest.Digest{two.Package}})
	must(t, err)
	if len(made) != 2 || len(made[0].Deltas) == 0 {
		t.Fatalf("made %v, want packs for 2 offers", made)
	}
	for _, channel := range []string{"stable", "beta"} {
		if got := s.offered(channel, two.Package); !slices.Equal(got, made[0].Deltas) {
			t.Errorf("%s offers %v, want %v", channel, got, made[0].Deltas)
		}
	}
	signed = s.timestamp()
	again, err := publish.MakeDeltas(t.Context(), s.dir, publish.DeltaOptions{})
	must(t, err)
	if len(again) > 0 || s.timestamp() != signed || len(requests(t, s.dir)) > 0 {
		t.Errorf("made again %v with requests %v left, signed anew: %v; want nothing made, no requests and no new signature", again, requests(t, s.dir), s.timestamp() != signed)
	}
	// Another rollout of the version keeps them.
	if r := s.publish("2", publish.Options{DeltasFrom: 3, WholePack: true}); r.Pending > 0 || !slices.Equal(r.Deltas, made[0].Deltas) {
		t.Errorf("published again: got %d packs to be made, deltas %v; want 0 and %v", r.Pending, r.Deltas, made[0].Deltas)
	}
}

// TestDeltasInterrupted: what an interrupted run has made is used by the next one, and the
// packs are those of a run without interruption. Meanwhile others can publish.
func TestDeltasInterrupted(t *testing.T) {
	var want []delta.Offer
	for _, interrupted := range []bool{false, true} {
		s := newSeries(t)
		for _, n := range []string{"1", "2", "3"} {
			s.publish(n, publish.Options{})
		}
		four := s.publish("4", publish.Options{DeltasFrom: 3})
		if interrupted {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := publish.MakeDeltas(ctx, s.dir, publish.DeltaOptions{Made: func(done, total int) {
				if done == 1 && total == 3 {
					s.publish("5", publish.Options{Channel: "edge"}) // the repository is not locked
					cancel()
				}
			}})
			if !errkind.Is(err, errkind.Interrupted) {
				t.Fatalf("error %v; want an error of kind %v", err, errkind.Interrupted)
			}
			if got := s.offered("stable", four.Package); len(got) > 0 {
				t.Errorf("after the interruption: it offers %v, want no packs", got)
			}
			notes, err := filepath.Glob(filepath.Join(s.dir, "deltas", "*.json"))
			must(t, err)
			if len(notes) != 1 || len(requests(t, s.dir)) != 1 {
				t.Fatalf("notes %q; want 1 notes and 1 of them", notes)
			}
			before, err := os.Stat(notes[0])
			must(t, err)
			defer func() {
				after, err := os.Stat(notes[0])
				must(t, err)
				if !os.SameFile(before, after) {
					t.Error("a pack was made twice")
				}
			}()
		}
		makeDeltas(t, s.dir, four)
		got := s.offered("stable", four.Package)
		if !interrupted {
			want = got
		}
		if len(got) != 3 || !slices.Equal(got, want) {
			t.Errorf("it offers %v, want %v", got, want)
		}
	}
}

// TestDeltasSuperseded: no packs are made for a version that the channel does not offer any
// more, and none from a version that the repository has lost.
func TestDeltasSuperseded(t *testing.T) {
	s := newSeries(t)
	one := s.publish("1", publish.Options{})
	two := s.publish("2", publish.Options{DeltasFrom: 1})
	s.publish("3", publish.Options{})
	four := s.publish("4", publish.Options{DeltasFrom: 3})
	must(t, os.Remove(filepath.Join(s.dir, repo.BlobPath(one.Package))))
	makeDeltas(t, s.dir, four)
	if len(four.Deltas) != 2 || four.Deltas[1].From != two.Package {
		t.Errorf("deltas %v; want 2 deltas and from %v", four.Deltas, two.Package)
	}
	notes, err := filepath.Glob(filepath.Join(s.dir, "deltas", "*.json"))
	must(t, err)
	if len(notes) != 2 {
		t.Errorf("notes %q; want 2 notes", notes)
	}
}

// TestDeltasWithin: besides a number of versions, those have packs that the channel has
// offered within a time.
func TestDeltasWithin(t *testing.T) {
	s := newSeries(t)
	var list []*publish.Result
	for _, n := range []string{"1", "2", "3", "4"} {
		list = append(list, s.publish(n, publish.Options{}))
	}
	s.now = s.now.Add(90*24*time.Hour - 4*time.Hour)
	five := s.publish("5", publish.Options{DeltasFrom: 1, DeltasWithin: 90 * 24 * time.Hour})
	makeDeltas(t, s.dir, five)
	var from []digest.Digest
	for _, d := range five.Deltas {
		from = append(from, d.From)
	}
	if want := []digest.Digest{list[3].Package, list[2].Package, list[1].Package, list[0].Package}; !slices.Equal(from, want) {
		t.Errorf("from %v, want %v", from, want)
	}
	s.now = s.now.Add(30 * time.Minute)
	six := s.publish("6", publish.Options{DeltasFrom: 1, DeltasWithin: 90 * 24 * time.Hour})
	makeDeltas(t, s.dir, six)
	if len(six.Deltas) != 4 || six.Deltas[3].From != list[1].Package {
		t.Errorf("deltas %v; want 4 deltas and from %v", six.Deltas, list[1].Package)
	}
}

// TestDeltaRequestsPruned: a request remains while its package is offered.
func TestDeltaRequestsPruned(t *testing.T) {
	s := newSeries(t)
	s.publish("1", publish.Options{})
	s.publish("2", publish.Options{DeltasFrom: 1})
	prune := func(want int) {
		t.Helper()
		_, err := publish.Prune(t.Context(), s.dir, publish.PruneOptions{Common: publish.Common{Now: s.now}})
		must(t, err)
		if left := requests(t, s.dir); len(left) != want {
			t.Errorf("requests %q; want %v left", left, want)
		}
	}
	prune(1)
	s.publish("3", publish.Options{}) // machines outside of a rollout may still get 2
	prune(1)
	s.publish("4", publish.Options{})
	prune(0)
}
