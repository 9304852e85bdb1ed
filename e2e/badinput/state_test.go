package badinput_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestStateDB damages state.db while the agent is stopped. It is set aside,
// everything that the file system shows is rebuilt, and until the retained
// index is set nothing is collected.
func TestStateDB(t *testing.T) {
	const page = 4096
	for _, c := range []struct {
		name     string
		damage   func(b []byte) []byte // nil means that the file is deleted
		retained bool                  // survives
		holds    bool
	}{
		{"truncated", func(b []byte) []byte { return b[:2*page] }, false, false},
		{"cut short", func(b []byte) []byte { return b[:100] }, false, false},
		{"empty", func(b []byte) []byte { return nil }, false, false},
		{"zeroed", func(b []byte) []byte { return make([]byte, len(b)) }, false, false},
		{"pages zeroed", func(b []byte) []byte { clear(b[2*page:]); return b }, false, false},
		{"pages of ones", func(b []byte) []byte { return append(b[:2*page], bytes.Repeat([]byte{0xff}, len(b)-2*page)...) }, false, false},
		{"text", func(b []byte) []byte { return bytes.Repeat([]byte("hello "), 9000) }, false, false},
		{"a bit flipped in a record", func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"channel":"stable"`), []byte(`"channel":"stabld"`))
		}, true, true},
		{"a bit flipped in a hold", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"owner":"root"`), []byte(`"owner":"rood"`)) }, true, false},
		{"deleted", nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := set(t, rig.Options{})
			keep := s.retained()
			s.MustLull("hold", app)
			db := s.path("state.db")
			s.restart(func() {
				if c.damage == nil {
					s.no(os.Remove(db))
					return
				}
				b, err := os.ReadFile(db)
				s.no(err)
				s.no(os.WriteFile(db, c.damage(b), 0o600))
			})
			if log := s.Agent().Log(); !strings.Contains(log, "state.db was lost and is made again: holds, refreshes under way and reverted versions that are not told below are forgotten") ||
				!strings.Contains(log, fmt.Sprintf("retained-index-lost=%v", !c.retained)) {
				t.Errorf("want in the log that state.db was lost, with retained-index-lost=%v, got\n%s", !c.retained, log)
			}
			if asides := found(db + ".corrupt-*"); len(asides) != 1 && c.damage != nil && c.name != "empty" {
				t.Errorf("what was damaged is lost: %q", asides)
			}
			if held := strings.Contains(s.MustLull("status", app).Stdout, "by root"); held != c.holds {
				t.Errorf("held: %v, want %v", held, c.holds)
			}
			s.Lull("unhold", app)
			list := fmt.Sprint(s.API.Property("", "Retained.Packages"))
			if c.retained {
				if !strings.Contains(list, keep) {
					t.Errorf("retained: got %s, want %q in the list", list, keep)
				}
				s.doctor("warn", "state", "damaged state was set aside: "+db+".corrupt-", "lull list shows what was made again; hold again what should be held; then the file can be deleted")
				s.MustLull("gc")
			} else {
				s.doctor("fail", "state", "and made again; holds and the retained index are unknown",
					"nothing is collected until the system updater sets the retained index, or lull gc --retain-nothing says that there was nothing in it; hold again what should be held")
				s.refused(s.Lull("gc"), 1, "cannot collect, because what it may need is unknown: the retained index lacks the packages of the system updater, because state.db was lost",
					"it ends when the system updater sets the retained index; lull gc --retain-nothing declares it empty")
			}
			if _, err := os.Stat(s.path("packages", keep)); err != nil {
				t.Errorf("what was retained is collected: %v", err)
			}
			if !c.retained {
				s.StopAgent() // doubt survives
				s.StartAgent()
				if r := s.Lull("gc"); r.Code != 1 {
					t.Errorf("gc: got %v, want exit status 1", r)
				}
				s.MustLull("gc", "--retain-nothing")
				if _, err := os.Stat(s.path("packages", keep)); !os.IsNotExist(err) {
					t.Errorf("package %s after gc --retain-nothing: got error %v, want that it does not exist", keep, err)
				}
			}
			s.refused(s.Lull("gc", "--retain-nothing"), 65, "cannot say that nothing is retained: the retained index is known", "")
			s.whole()
			s.numbers(3)
		})
	}
}

// retained makes a package be resident for the retained index alone.
func (s *scene) retained() string {
	s.t.Helper()
	dir := s.Path("kept")
	s.no(os.MkdirAll(dir, 0o755))
	s.write(filepath.Join(dir, "lull.yaml"), "name: org.example.kept\nversion: \"1\"\nsummary: kept\n")
	s.write(filepath.Join(dir, "file"), "kept")
	s.Publish(dir)
	s.MustLull("install", "org.example.kept")
	target, err := os.Readlink(s.path("revisions", "org.example.kept", "1"))
	s.no(err)
	hash := filepath.Base(target)
	s.Admin.Must("busctl", "--address="+s.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName+".Retained", "Set", "as", "1", hash)
	s.MustLull("remove", "org.example.kept")
	s.UntilIdle()
	return hash
}

// numbers checks that the next revision has a number that was never used.
func (s *scene) numbers(next uint64) {
	s.t.Helper()
	sample.Write(s, s.Path("3"), "3.0")
	s.Publish(s.Path("3"))
	s.MustLull("refresh", app)
	s.UntilIdle()
	if o, _ := s.API.Package(app); o.Num("Revision") != next {
		s.t.Errorf("the new revision has the number %d; want revision %v", o.Num("Revision"), next)
	}
	// Of a removed application, too: its users have directories with that number.
	s.MustLull("install", "org.example.kept")
	if o, _ := s.API.Package("org.example.kept"); o.Num("Revision") != 2 {
		s.t.Errorf("a new life begins with revision %d; want revision 2", o.Num("Revision"))
	}
}

// TestStateWithoutMemory: also without the copy beside the links, everything
// that the file system shows is rebuilt.
func TestStateWithoutMemory(t *testing.T) {
	for _, memory := range []string{"", "{garbage", `{"instance":"somebody.else","last":9}`} {
		t.Run(memory, func(t *testing.T) {
			s := set(t, rig.Options{})
			s.restart(func() {
				s.no(os.Remove(s.path("state.db")))
				s.no(os.Remove(s.path("revisions", app, "memory")))
				if memory != "" {
					s.write(s.path("revisions", app, "memory"), memory)
				}
			})
			s.MustLull("refresh", app) // asks which repository has it
			s.whole()
		})
	}
}

// TestDamageWhileServing: the file loses its end under a running agent. Commands
// report it, launches work, and the next agent repairs it.
func TestDamageWhileServing(t *testing.T) {
	s := set(t, rig.Options{})
	s.no(os.Truncate(s.path("state.db"), 2*4096))
	r := s.Lull("hold", app)
	if r.Code != 1 || !strings.HasPrefix(r.Stderr, "lull: cannot ") || !strings.Contains(r.Stderr, s.path("state.db")+": it is damaged: ") ||
		!strings.HasSuffix(r.Stderr, "hint: restart lulld: it sets the file aside and makes a new one\n") {
		t.Errorf("hold: got %v, want exit status 1, error output that begins with %q, %q in the error output and error output that ends with %q", r, "lull: cannot ", s.path("state.db")+": it is damaged: ", "hint: restart lulld: it sets the file aside and makes a new one\n")
	}
	if s.Agent().Ended() {
		t.Fatal("the agent has died of it")
	}
	if r := s.User.Lull("run", app, "--show"); r.Code != 0 {
		t.Errorf("run: got %v, want exit status 0", r)
	}
	s.Agent().Crash()
	s.StartAgent()
	s.whole()
}

// TestJournal: one record of the journal that makes no sense is dropped alone.
func TestJournal(t *testing.T) {
	for name, record := range map[string]string{"garbage": "\x00nonsense", "no checksum": `{"id":"99","kind":"refresh","instance":"` + app + `","step":"link"}`} {
		t.Run(name, func(t *testing.T) {
			s := set(t, rig.Options{})
			s.MustLull("hold", app)
			s.restart(func() {
				db, err := bbolt.Open(s.path("state.db"), 0o600, nil)
				s.no(err)
				s.no(db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("refreshes")).Put([]byte("99"), []byte(record)) }))
				s.no(db.Close())
				s.write(filepath.Join(s.RunDir, "runctl", "lull."+app+".inhibited"), "refresh-in-progress\n")
			})
			if log := s.Agent().Log(); !strings.Contains(log, "dropping a refresh whose journal cannot be read") {
				t.Errorf("want in the log that a refresh is dropped whose journal cannot be read, got\n%s", log)
			}
			if out := s.MustLull("status", app).Stdout; !strings.Contains(out, "by root") {
				t.Errorf("the hold is gone: got %s, want %q in the output", out, "by root")
			}
			s.MustLull("unhold", app)
			s.whole()
		})
	}
}

// TestJournalLostAtEveryStep kills the agent behind each step of a refresh,
// removes the journal, or all of state.db, and restarts it: the old or the new
// revision is whole, with its data, services run, no marker stays, and the
// refresh can be done.
func TestJournalLostAtEveryStep(t *testing.T) {
	steps := []string{"resolve", "fetch", "stage", "precopy", "wait", "inhibit", "stop-services", "copy", "link", "start-services", "health", "uninhibit", "finish"}
	points := []string{"refresh.inhibit.marked", "refresh.link.swapped"}
	for _, step := range steps {
		points = append(points, "refresh."+step+".after")
	}
	if testing.Short() {
		points = points[:4]
	}
	for _, lose := range []string{"the journal", "all"} {
		for i, point := range points {
			if lose == "all" && i%3 != 0 {
				continue // what is made of the links does not depend on what was lost with the journal
			}
			t.Run(lose+" at "+point, func(t *testing.T) {
				s := set(t, rig.Options{Tags: "faultpoint"})
				sample.Write(s, s.Path("3"), "3.0")
				s.Publish(s.Path("3"))
				s.StopAgent()
				agent := s.StartAgent("LULL_FAULT=" + point + ":kill")
				s.Lull("refresh", app)
				if _, err := agent.Wait(t.Context(), limit); err != nil {
					t.Fatalf("it has not come to %s: %v", point, err)
				}
				before := s.version()
				s.loseJournal(lose == "all")
				s.StartAgent()
				if v := s.version(); v != before || !slices.Contains([]string{sample.V2, "3.0"}, v) {
					t.Errorf("version %s has become %s, want it unchanged, %s or 3.0", before, v, sample.V2)
				}
				s.UntilIdle()
				s.noMarkers()
				s.runs(before)
				s.doctor("ok", "installed", "1, all whole", "")
				if r := s.Lull("refresh", app); r.Code != 0 {
					t.Errorf("refresh: got %v, want exit status 0", r)
				}
				s.UntilIdle()
				s.runs("3.0")
				o, _ := s.API.Package(app)
				if list := fmt.Sprint(o.Props["Revisions"]); strings.Contains(list, "staged") || o.Str("Repository") != "local" {
					t.Errorf("left over: %+v", o.Props)
				}
				data := s.path("data", app, fmt.Sprint(o.Num("Revision")), "sync.log")
				s.UntilFile("the service runs with its data", limit, data, func(text string) (bool, string) {
					return strings.HasPrefix(text, "1.0 started\n") && strings.HasSuffix(text, "3.0 started\n"), text
				})
				if partial := found(s.path("data", app, "*.partial*")); len(partial) > 0 {
					t.Errorf("half copied data was left: %q", partial)
				}
				if r := s.Lull("verify"); r.Code != 0 {
					t.Errorf("not whole: %v", r)
				}
			})
		}
	}
}

func (s *scene) loseJournal(all bool) {
	s.t.Helper()
	if all {
		s.no(os.Remove(s.path("state.db")))
		return
	}
	db, err := bbolt.Open(s.path("state.db"), 0o600, nil)
	s.no(err)
	s.no(db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("refreshes"))
		return b.ForEach(func(k, _ []byte) error { return b.Put(bytes.Clone(k), []byte("lost")) })
	}))
	s.no(db.Close())
}
