package hostile_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

func TestMain(m *testing.M) {
	if name := os.Getenv("LULL_TEST_ATTACK"); name != "" {
		attack(name, os.Getenv("LULL_TEST_ADDRESS"))
		return
	}
	switch n, err := strconv.Atoi(os.Getenv("LULL_TEST_PROBE")); {
	case os.Getenv("LULL_TEST_ASSAULT") != "":
		assault(os.Getenv("LULL_TEST_ASSAULT"))
		return
	case os.Getenv("LULL_TEST_SERVE") != "":
		serve()
		return
	case err == nil:
		probe(n)
		return
	}
	rig.Main(m.Run)
}

const quietPolicy = "schedule: {check: 0}\ngc: {after-refresh: false, watermark: 0, reserve: 0}\n"

// world has an agent with one good package published and nothing installed.
func world(t *testing.T, o rig.Options) (*rig.World, forger) {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "cc")
	if o.Tracker == "" {
		o.Tracker = "poll" // nothing runs here, and so nothing has to be registered
	}
	w := rig.New(t, o)
	w.Configure("policy.yaml", quietPolicy)
	sample.Write(w, w.Path("good"), sample.V1)
	w.MustLull("repo", "init", w.Repo)
	w.MustLull("publish", "--repo", w.Repo, w.Path("good"))
	w.StartAgent()
	w.MustLull("repo", "add", "local", w.Repo)
	return w, forger{t, w.Repo}
}

// snapshot lists what an installation would leave: names below the root and
// the run directory, but for the agent's own working files.
func snapshot(t *testing.T, w *rig.World) string {
	t.Helper()
	var names []string
	// Verified downloads may wait in tmp/ for the next attempt.
	for _, top := range []string{"blobs", "packages", "current", "revisions", "exports", "data"} {
		err := filepath.WalkDir(filepath.Join(w.Store, top), func(path string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err == nil && !d.IsDir() {
				names = append(names, strings.TrimPrefix(path, w.Store))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	locks, _ := filepath.Glob(filepath.Join(w.RunDir, "runctl", "*"))
	names = append(names, locks...)
	slices.Sort(names)
	return strings.Join(names, "\n")
}

// refused checks that a command ended with a code and one clear error that
// contains all of want, and that nothing was half installed.
func refused(t *testing.T, w *rig.World, before string, r rig.Result, code int, want ...string) {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit status %d, want %d:\n%v", r.Code, code, r)
	}
	errors := 0
	for line := range strings.Lines(r.Stderr) {
		if strings.HasPrefix(line, "lull: ") {
			errors++
			if !strings.HasPrefix(line, "lull: cannot ") || strings.Contains(line, "internal error") {
				t.Errorf("not a clear error: %q", line)
			}
		}
	}
	if errors != 1 {
		t.Errorf("%d errors, want one:\n%v", errors, r)
	}
	for _, text := range want {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("the error does not say %q:\n%v", text, r)
		}
	}
	if after := snapshot(t, w); after != before {
		t.Errorf("something was left behind; before:\n%s\nafter:\n%s", before, after)
	}
	if list := w.MustLull("--json", "list").Stdout; strings.Contains(list, "org.evil") {
		t.Errorf("the list is %s, want none of org.evil", list)
	}
}

func TestHostileMeta(t *testing.T) {
	w, f := world(t, rig.Options{})
	content := []byte("#!/bin/sh\necho owned\n")
	blob := f.blob(content)
	w.MustLull("install", sample.Name)
	resident, err := digest.Parse(residentBlob(t, w))
	if err != nil {
		t.Fatal(err)
	}
	file := func(path string) string {
		return fmt.Sprintf(`[{"blob":%q,"path":%q,"size":%d}]`, blob, path, len(content))
	}
	for i, c := range []struct {
		name string
		meta func(name string) []byte
		want string
	}{
		{"climbs out", func(n string) []byte { return metaWith(t, n, blob, len(content), entries(file("../../etc/passwd"))) }, "../../etc/passwd"},
		{"climbs out inside", func(n string) []byte { return metaWith(t, n, blob, len(content), entries(file("a/../../b"))) }, "a/../../b"},
		{"absolute", func(n string) []byte { return metaWith(t, n, blob, len(content), entries(file("/etc/cron.d/x"))) }, "/etc/cron.d/x"},
		{"the store's own folder", func(n string) []byte { return metaWith(t, n, blob, len(content), entries(file(".lull/launch.json"))) }, ".lull/launch.json"},
		{"twice", func(n string) []byte {
			return metaWith(t, n, blob, len(content), entries(strings.TrimSuffix(file("a"), "]")+","+strings.TrimPrefix(file("a"), "[")))
		}, `a`},
		{"a symlink that leaves", func(n string) []byte {
			return metaWith(t, n, blob, len(content), entries(`[{"path":"l","symlink":"../../../../etc/shadow","type":"symlink"}]`))
		}, "etc/shadow"},
		{"a file below a symlink", func(n string) []byte {
			return metaWith(t, n, blob, len(content), entries(fmt.Sprintf(`[{"path":"l","symlink":"d","type":"symlink"},{"blob":%q,"path":"l/x","size":%d}]`, blob, len(content))))
		}, "l/x"},
		{"a device", func(n string) []byte {
			return metaWith(t, n, blob, len(content), entries(`[{"path":"sda","type":"device"}]`))
		}, "device"},
		{"setuid", func(n string) []byte {
			return metaWith(t, n, blob, len(content), entries(fmt.Sprintf(`[{"blob":%q,"mode":"4755","path":"su","size":%d}]`, blob, len(content))))
		}, "mode"},
		{"an unknown key", func(n string) []byte {
			return metaWith(t, n, blob, len(content), func(m map[string]any) { m["postinst"] = "rm -rf /" })
		}, "postinst"},
		{"another's name", func(n string) []byte { return metaWith(t, "org.lull.notes", blob, len(content), nil) }, "org.lull.notes"},
		{"a command outside", func(n string) []byte {
			return metaWith(t, n, blob, len(content), func(m map[string]any) {
				m["apps"] = []any{map[string]any{"name": "app", "command": []string{"/bin/sh"}}}
			})
		}, "/bin/sh"},
		{"no JSON", func(string) []byte { return []byte("\x00\x01\x02") }, ""},
		{"cut off", func(n string) []byte { m := metaWith(t, n, blob, len(content), nil); return m[:len(m)/2] }, ""},
		{"a wrong size", func(n string) []byte { return metaWith(t, n, f.blob([]byte("another")), 5, nil) }, digest.Of([]byte("another")).String()[:16]},
		{"a wrong size of a resident blob", func(n string) []byte { return metaWith(t, n, resident, 5, nil) }, resident.String()[:16]},
		{"not canonical", func(n string) []byte { return append(metaWith(t, n, blob, len(content), nil), '\n') }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprintf("org.evil.p%d", i)
			before := snapshot(t, w)
			hash := forger{t, w.Repo}.offer(name, c.meta(name))
			r := w.Lull("install", name)
			if !strings.Contains(r.Stderr, name+":") && !strings.Contains(r.Stderr, hash.Short()) {
				t.Errorf("the error names neither the package nor its hash: want %s: or %s, got %v", name, hash.Short(), r)
			}
			w.MustLull("gc") // a package that is whole, but not what it should be, may lie there until then
			refused(t, w, before, r, 65, c.want)
		})
	}
	w.MustLull("remove", sample.Name) // the agent is as good as before
	w.MustLull("install", sample.Name)
}

// residentBlob names a blob with the execute bit that the store has.
func residentBlob(t *testing.T, w *rig.World) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.Store, "blobs", "*", "*x"))
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	return strings.TrimSuffix(filepath.Base(found[0]), "x")
}

func TestHostilePointer(t *testing.T) {
	w, _ := world(t, rig.Options{})
	hash := strings.Repeat("ab", 32)
	good := `{"name":"org.evil.x","channel":"stable","package":"` + hash + `","version":"1","urgency":"medium","published":"2026-01-02T03:04:05Z","size":1,"rollout":{"percent":100}}`
	for name, pointer := range map[string]string{
		"another package":    strings.Replace(good, "org.evil.x", "org.evil.y", 1),
		"no hash":            strings.Replace(good, hash, "../../../etc/passwd", 1),
		"an unknown key":     strings.Replace(good, `"size"`, `"exec":"rm","size"`, 1),
		"an urgency":         strings.Replace(good, "medium", "now", 1),
		"a negative size":    strings.Replace(good, `"size":1`, `"size":-1`, 1),
		"a version":          strings.Replace(good, `"version":"1"`, `"version":"\u001b[2J"`, 1),
		"no JSON":            "hello",
		"the blob is absent": good,
	} {
		t.Run(name, func(t *testing.T) {
			before := snapshot(t, w)
			forger{t, w.Repo}.channel("org.evil.x", pointer+"\n")
			r := w.Lull("install", "org.evil.x")
			if r.Code == 0 {
				t.Errorf("it was installed: got %v, want a failure", r)
			}
			refused(t, w, before, r, r.Code, "org.evil.x")
		})
	}
}

// TestAlteredBlobs damages the blobs of a good package in several ways.
func TestAlteredBlobs(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)-len(b)/3] },
		"empty":     func(b []byte) []byte { return nil },
		"altered":   func(b []byte) []byte { b = slices.Clone(b); b[len(b)/2] ^= 0x40; return b },
		"another":   func([]byte) []byte { return nil }, // replaced below
	} {
		t.Run(name, func(t *testing.T) {
			w, f := world(t, rig.Options{})
			before := snapshot(t, w)
			blobs, err := filepath.Glob(f.path("blobs", "*", "*"))
			if err != nil || len(blobs) < 3 {
				t.Fatal(blobs, err)
			}
			largest := slices.MaxFunc(blobs, func(a, b string) int { return int(size(a) - size(b)) })
			smallest := slices.MinFunc(blobs, func(a, b string) int { return int(size(a) - size(b)) })
			data, err := os.ReadFile(largest)
			if err != nil {
				t.Fatal(err)
			}
			bad := damage(data)
			if name == "another" {
				if bad, err = os.ReadFile(smallest); err != nil {
					t.Fatal(err)
				}
			}
			f.write(largest, bad)
			hash := strings.TrimSuffix(filepath.Base(largest), ".zst")
			refused(t, w, before, w.Lull("install", sample.Name), 65, hash[:16])
			f.write(largest, data)
			w.MustLull("install", sample.Name) // it works as soon as the blob is good again
			if out := w.MustLull("verify").Text(); strings.Contains(out, hash[:16]) {
				t.Errorf("verify finds blob %s, which is good again: got %s, want it not named", hash[:16], out)
			}
		})
	}
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// TestUntrustedRepositories lets time run out, and brings back old metadata.
func TestUntrustedRepositories(t *testing.T) {
	t.Run("expired from the start", func(t *testing.T) {
		w, _ := world(t, rig.Options{})
		old := w.Path("old-repo")
		common := publish.Common{Now: time.Now().Add(-10 * 24 * time.Hour), Expires: publish.Expiry{Root: 9000 * time.Hour, Targets: time.Hour, Snapshot: time.Hour, Timestamp: time.Hour}}
		if err := publish.Init(context.Background(), old, publish.InitOptions{Common: common}); err != nil {
			t.Fatal(err)
		}
		refused(t, w, snapshot(t, w), w.Lull("repo", "add", "old", old), 65, "expired", "old")
	})
	t.Run("expired meanwhile", func(t *testing.T) {
		w, _ := world(t, rig.Options{})
		ending := w.Path("ending")
		end := time.Now().Add(4 * time.Second)
		common := publish.Common{Expires: publish.Expiry{Timestamp: time.Until(end)}}
		if err := publish.Init(context.Background(), ending, publish.InitOptions{Common: common}); err != nil {
			t.Fatal(err)
		}
		w.MustLull("repo", "add", "ending", ending)
		before := snapshot(t, w)
		time.Sleep(time.Until(end.Add(time.Second))) // what is tested is that time passes
		refused(t, w, before, w.Lull("install", "--repository", "ending", sample.Name), 65, "expired", "ending")
		w.MustLull("install", "--repository", "local", sample.Name) // the other one is as good as before
	})
	t.Run("rolled back", func(t *testing.T) {
		w, f := world(t, rig.Options{})
		old := w.Path("repo-before")
		if err := os.CopyFS(old, os.DirFS(w.Repo)); err != nil {
			t.Fatal(err)
		}
		sample.Write(w, w.Path("newer"), sample.V2)
		w.MustLull("publish", "--repo", w.Repo, w.Path("newer"))
		w.MustLull("install", sample.Name)
		before := snapshot(t, w)
		if err := os.RemoveAll(f.path("metadata")); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(f.path("metadata"), os.DirFS(filepath.Join(old, "metadata"))); err != nil {
			t.Fatal(err)
		}
		refused(t, w, before, w.Lull("refresh", sample.Name), 65, "local")
		if out := w.MustLull("list").Stdout; !strings.Contains(out, sample.V2) {
			t.Errorf("it went back to the old version: got %s, want %q in the output", out, sample.V2)
		}
	})
	t.Run("signed by somebody else", func(t *testing.T) {
		w, f := world(t, rig.Options{})
		before := snapshot(t, w)
		foreign := w.Path("foreign")
		w.MustLull("repo", "init", foreign)
		w.MustLull("publish", "--repo", foreign, w.Path("good"))
		for _, name := range []string{"metadata", "channels"} {
			if err := os.RemoveAll(f.path(name)); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(f.path(name), os.DirFS(filepath.Join(foreign, name))); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, w, before, w.Lull("install", sample.Name), 65, "local")
	})
	t.Run("unsigned change", func(t *testing.T) {
		w, f := world(t, rig.Options{})
		before := snapshot(t, w)
		paths, err := filepath.Glob(f.path("channels", sample.Name, "*"))
		if err != nil || len(paths) != 1 {
			t.Fatal(paths, err)
		}
		b, err := os.ReadFile(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		f.write(paths[0], []byte(strings.Replace(string(b), `"medium"`, `"1owest"`, 1)))
		refused(t, w, before, w.Lull("install", sample.Name), 65, sample.Name)
	})
}
