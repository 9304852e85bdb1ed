package sysupdate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// TestInterrupted fails, or ends the agent, at each fetch in turn. The next try
// goes on, and nothing is fetched twice.
func TestInterrupted(t *testing.T) {
	for _, how := range []string{"error", "stop"} {
		t.Run(how, func(t *testing.T) {
			for at := 1; ; at++ {
				if !interruptedAt(t, how, at) {
					if at < 8 {
						t.Errorf("got %d fetches, want at least 7", at-1)
					}
					return
				}
			}
		})
	}
}

// interruptedAt reports whether there is such a fetch.
func interruptedAt(t *testing.T, how string, at int) bool {
	m := newMachine(t)
	old, image, a, b := m.pkg("a", "1", nil), m.pkg("image", "2", nil), m.pkg("a", "2", nil), m.pkg("b", "2", nil)
	m.no(m.stage(m.update(spec{version: "1", base: []digest.Digest{old}})))
	m.reboot()
	m.no(m.Commit(t.Context()))
	log := filepath.Join(t.TempDir(), "log")
	u := m.update(spec{version: "2", images: []digest.Digest{image}, base: []digest.Digest{a}, cache: []digest.Digest{b},
		hooks: map[string]string{"pre-refresh": "echo installed >> " + log + "\n"}})
	m.Resolver.Parallel = 1
	var fetched []digest.Digest
	var once sync.Once
	reached := make(chan struct{}) // unbuffered: the fetch ends after it was seen
	m.repo.Before = func(ctx context.Context, d digest.Digest, _ int64) error {
		if len(fetched)+1 != at {
			fetched = append(fetched, d)
			return nil
		}
		once.Do(func() { reached <- struct{}{} })
		if how == "error" {
			return errors.New("the line is cut")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	m.no(m.Stage(u))
	ended := make(chan error, 1)
	go func(s *System) { ended <- wait(s) }(m.System)
	select {
	case <-reached:
	case err := <-ended:
		m.no(err)
		m.is(Staged, "1", "")
		return false
	}
	if how == "error" {
		refused(t, <-ended, errkind.Failed, "the line is cut")
		m.is(Interrupted, "1", "")
	} else {
		m.stop()
		<-ended
		m.start()
		m.is(Interrupted, "1", "")
	}
	if how == "error" && at%2 == 0 {
		m.restart()
	}
	m.repo.Before = nil
	m.no(m.Continue())
	m.no(wait(m.System))
	m.is(Staged, "1", "")
	for _, d := range fetched {
		if n := m.repo.Fetches(d); n != 1 {
			t.Errorf("cut at fetch %d: %s was fetched %d times, want 1", at, d.Short(), n)
		}
	}
	m.reboot()
	m.is(Booted, "1", "2")
	m.no(m.Commit(t.Context()))
	m.collectAll()
	m.has(true, a, b)
	m.has(false, old, image, u.Package)
	return true
}

// TestAnyHistory runs the allowed operations in any order. The set in effect
// is always complete, and only the expected packages exist after a collection.
func TestAnyHistory(t *testing.T) {
	base := newMachine(t)
	shared := base.pkg("shared", "1", nil)
	var updates []Update
	sets := map[string][]digest.Digest{}
	for i := 1; i <= 3; i++ {
		v := fmt.Sprint(i)
		sets[v] = []digest.Digest{base.pkg("a", v, nil), shared}
		updates = append(updates, base.update(spec{version: v, images: []digest.Digest{base.pkg("image", v, nil)},
			base: sets[v][:1], cache: sets[v][1:], hooks: map[string]string{"pre-refresh": "exit 0\n"}}))
	}
	base.stop()
	rapid.Check(t, func(r *rapid.T) {
		m := newMachine(t)
		m.repo = base.repo
		defer m.stop()
		var committed, booted, staged string
		state := Idle
		show := func() { m.is(state, committed, booted) }
		for range rapid.IntRange(1, 9).Draw(r, "length") {
			switch op := rapid.SampledFrom([]string{"stage", "cut", "restart", "reboot", "commit", "rollback", "collect"}).Draw(r, "op"); op {
			case "stage", "cut":
				v := rapid.IntRange(1, 3).Draw(r, "version")
				if op == "cut" {
					left := rapid.IntRange(0, 8).Draw(r, "after")
					m.Resolver.Parallel = 1
					m.repo.Before = func(context.Context, digest.Digest, int64) error {
						if left--; left < 0 {
							return errors.New("the line is cut")
						}
						return nil
					}
				}
				err := m.stage(updates[v-1])
				m.repo.Before = nil
				switch {
				case booted != "":
					refused(r, err, errkind.Busy, "is booted and not committed")
				case committed == fmt.Sprint(v) && state == Idle:
					m.no(err)
				case op == "cut" && err != nil:
					state, staged = Interrupted, ""
				default:
					m.no(err)
					state, staged = Staged, fmt.Sprint(v)
				}
			case "restart":
				m.restart()
			case "reboot":
				m.reboot()
				if state == Staged {
					state, booted, staged = Booted, staged, ""
				}
			case "commit":
				err := m.Commit(context.Background())
				switch {
				case booted != "":
					m.no(err)
					state, committed, booted = Idle, booted, ""
				case state == Idle && committed != "":
					m.no(err)
				case err == nil:
					r.Errorf("committed in the state %s", state)
				}
			case "rollback":
				err := m.Rollback()
				if state == Idle {
					refused(r, err, errkind.NotFound, "cannot roll back")
				} else {
					m.no(err)
				}
				state, booted, staged = Idle, "", ""
			case "collect":
				_, err := m.collect(context.Background())
				if booted != "" {
					refused(r, err, errkind.Busy, "cannot collect")
				} else {
					m.no(err)
				}
			}
			show()
		}
		if state != Idle {
			m.no(m.Rollback())
		}
		m.reboot() // from what was rolled back while it ran
		m.collectAll()
		for v, list := range sets {
			m.has(v == committed, list[0])
		}
		m.has(committed != "", shared)
	})
}
