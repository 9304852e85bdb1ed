package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/storetest"
)

// The attacks that TUF protects against, each by its name in the specification
// (https://theupdateframework.github.io/specification/latest/, 1.5.2): a malicious
// server answers a machine that has a store.

// victim is a machine: a client of a repository, its store, and a server between both.
type victim struct {
	*repo.Client
	t      *testing.T
	store  *store.Store
	server *recorder
	state  string
	url    string
	root   []byte
}

// victimOf is a machine that reads a repository through a server that can send other content.
func victimOf(t *testing.T, f *fixture) *victim {
	t.Helper()
	v := &victim{t: t, store: storetest.Open(t), server: &recorder{files: http.FileServer(http.Dir(f.dir))}, state: t.TempDir(), root: f.root}
	v.url = f.serve(v.server)
	v.restart(now.Add(time.Hour))
	return v
}

// restart opens the repository as the next process does.
func (v *victim) restart(at time.Time) {
	v.t.Helper()
	c, err := repo.Open(repo.Config{Name: "main", URL: v.url, Root: v.root}, v.state)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(c.Close)
	c.Hurry()
	c.SetNow(at)
	v.Client = c
}

// install does the same as a refresh, and returns the version that is in the store then.
func (v *victim) install() (version string, err error) {
	ctx := v.t.Context()
	if err := v.Update(ctx); err != nil {
		return "", err
	}
	list, err := v.Offers(ctx, app, "stable")
	if err != nil {
		return "", err
	}
	pkg := list[0].Package
	if err := resolve.New(v.store, index.New()).Resolve(ctx, pkg, v.Client, "test", nil); err != nil {
		return "", err
	}
	if !v.store.HasPackage(pkg) {
		return "", errors.New("the package is not in the store")
	}
	return list[0].Version, nil
}

func (v *victim) installs(want string) {
	v.t.Helper()
	if version, err := v.install(); err != nil || version != want {
		v.t.Errorf("installed %q, %v, want %q", version, err, want)
	}
}

// refuses checks that an installation fails because of trust, also in the next process.
func (v *victim) refuses(what string, kinds ...errkind.Kind) {
	v.t.Helper()
	if kinds == nil {
		kinds = []errkind.Kind{errkind.Untrusted}
	}
	version, err := v.install()
	for _, k := range kinds {
		if errkind.Is(err, k) {
			return
		}
	}
	v.t.Errorf("%s: installed %q, %s: %v", what, version, errkind.KindOf(err), err)
}

// lies makes the server answer requests for files that match with other bytes.
func (v *victim) lies(pattern string, data []byte) {
	v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
		if ok, _ := filepath.Match(pattern, strings.TrimPrefix(r.URL.Path, "/")); !ok {
			return false
		}
		_, _ = w.Write(data)
		return true
	})
}

// requests are the files that a first installation asks for, as patterns.
var requests = []string{"metadata/timestamp.json", "metadata/*.snapshot.json", "metadata/*.targets.json", "channels/*/*.json", "blobs/*/*"}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(data, nil)
}

// TestArbitraryInstallation: without the keys, a server cannot install its own content.
func TestArbitraryInstallation(t *testing.T) {
	f, evil := newFixture(t, publish.Expiry{}), newFixture(t, publish.Expiry{})
	evil.publish("6.6", publish.Expiry{})
	v := victimOf(t, f)
	v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
		http.FileServer(http.Dir(evil.dir)).ServeHTTP(w, r)
		return true
	})
	v.refuses("a whole repository with other keys, at first sight")
	v.server.set(nil)
	v.installs("1.0")
	f.publish("1.1", publish.Expiry{})
	for _, pattern := range []string{"metadata/timestamp.json", "metadata/*.snapshot.json", "metadata/*.targets.json", "channels/*/*.json"} {
		matches, err := filepath.Glob(filepath.Join(evil.dir, pattern))
		if err != nil || len(matches) == 0 {
			t.Fatal(pattern, matches, err)
		}
		data, err := os.ReadFile(matches[len(matches)-1])
		if err != nil {
			t.Fatal(err)
		}
		v.lies(pattern, data)
		v.refuses("another " + pattern)
		v.restart(now.Add(time.Hour))
		v.refuses("another " + pattern + ", after a restart")
	}
	v.lies("blobs/*/*", compressed(t, []byte("#!/bin/sh\nrm -rf ~\n")))
	v.refuses("other content")
	v.server.set(nil)
	v.installs("1.1")
}

// TestEndlessData: a transfer without end is stopped, for every file.
func TestEndlessData(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	f.publish("1.1", publish.Expiry{})
	noise := make([]byte, 1<<16)
	for i := range noise {
		noise[i] = ' ' // a document may begin with it
	}
	for _, pattern := range append([]string{"metadata/2.root.json"}, requests...) {
		v := victimOf(t, f)
		var sent atomic.Int64
		var asked atomic.Bool
		v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
			if ok, _ := filepath.Match(pattern, strings.TrimPrefix(r.URL.Path, "/")); !ok {
				return false
			}
			asked.Store(true)
			for {
				n, err := w.Write(noise)
				sent.Add(int64(n))
				if err != nil {
					return true
				}
			}
		})
		version, err := v.install()
		if !asked.Load() {
			t.Fatalf("%s was not asked for: %v", pattern, err)
		}
		if !errkind.Is(err, errkind.Untrusted) {
			t.Errorf("%s: installed %q, %s: %v; want an error of kind %v", pattern, version, errkind.KindOf(err), err, errkind.Untrusted)
		}
		// 32 MiB for the list of targets, which is the largest, and the content of
		// buffers.
		if n := sent.Load(); n > 48<<20 {
			t.Errorf("%s: %d bytes were taken, want at most %d", pattern, n, 48<<20)
		}
	}
}

// TestExtraneousDependencies: a server cannot add a subpackage, or any other content, to a
// package.
func TestExtraneousDependencies(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	v := victimOf(t, f)
	r, err := f.client("", t.TempDir()).Blob(t.Context(), f.result.Package, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	m.Subpackages = map[string]digest.Digest{"extra": digest.Of([]byte("extra"))}
	more, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	v.lies(repo.BlobPath(f.result.Package), compressed(t, more))
	v.refuses("a manifest with another subpackage")
	for _, asked := range v.server.take() {
		if strings.Contains(asked, m.Subpackages["extra"].String()) {
			t.Error("the subpackage is asked for")
		}
	}
	v.server.set(nil)
	v.installs("1.0")
}

// TestFastForward: a thief of the online keys who signs an enormous version cannot stop
// updates after the keys are replaced.
func TestFastForward(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	v := victimOf(t, f)
	v.installs("1.0")
	genuine := f.save()
	const enormous = 1 << 40
	snapshot, err := metadata.Snapshot().FromBytes(f.read(f.newest("snapshot")))
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Signed.Version = enormous
	f.write(fmt.Sprintf("metadata/%d.snapshot.json", enormous), sign(f, metadata.SNAPSHOT, snapshot))
	f.signTimestamp(func(m *metadata.TimestampType) {
		m.Version = enormous
		m.Meta["snapshot.json"] = metadata.MetaFile(enormous)
	})
	v.installs("1.0") // accepted: it is signed
	f.restore(genuine)
	f.publish("1.1", publish.Expiry{})
	v.refuses("a version below the enormous one")
	if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}, Roles: []string{metadata.SNAPSHOT, metadata.TIMESTAMP}}); err != nil {
		t.Fatal(err)
	}
	v.installs("1.1")
	v.restart(now.Add(time.Hour))
	v.installs("1.1")
}

// TestIndefiniteFreeze: a server that keeps an old state is noticed when that expires, also
// by a machine whose clock has stopped.
func TestIndefiniteFreeze(t *testing.T) {
	expires := publish.Expiry{Timestamp: 7 * 24 * time.Hour}
	f := newFixture(t, expires)
	frozen := f.save()
	v := victimOf(t, f)
	v.installs("1.0")
	f.publish("1.1", publish.Expiry{})
	v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := frozen[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
		} else {
			_, _ = w.Write(data)
		}
		return true
	})
	v.SetNow(now.Add(7*24*time.Hour - time.Minute))
	v.installs("1.0") // this cannot be detected yet
	v.SetNow(now.Add(7*24*time.Hour + time.Minute))
	v.refuses("a state that has expired")
	v.restart(now.Add(8 * 24 * time.Hour))
	v.refuses("a state that has expired, after a restart")
	if _, err := v.Offers(t.Context(), app, "stable"); !errkind.Is(err, errkind.Untrusted) {
		t.Errorf("what was accepted before is in use: got %v, want an error of kind %v", err, errkind.Untrusted)
	}
	v.server.set(nil)
	v.installs("1.1")

	// A machine that has seen a later signature derives a lower bound of the time from
	// it.
	if err := publish.Resign(t.Context(), f.dir, publish.ResignOptions{Common: publish.Common{Now: now.Add(30 * 24 * time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	v.installs("1.1")
	v.SetNow(time.Unix(600, 0))
	if at := v.Time(); at.Before(now.Add(30 * 24 * time.Hour)) {
		t.Errorf("the time is taken to be %v, want it not before %v, which a signature proves", at, now.Add(30*24*time.Hour))
	}
}

// TestMixAndMatch: files of different states never make a state of their own: a machine gets
// a published state, or none.
func TestMixAndMatch(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	states := []map[string][]byte{f.save()}
	for _, version := range []string{"1.1", "1.2"} {
		f.publish(version, publish.Expiry{})
		states = append(states, f.save())
	}
	versions := []string{"1.0", "1.1", "1.2"}
	// newest is the newest file of a role in a state.
	newest := func(state map[string][]byte, role string) []byte {
		best := ""
		for name := range state {
			if strings.HasSuffix(name, role+".json") && strings.HasPrefix(name, "metadata/") && (len(name) > len(best) || len(name) == len(best) && name > best) {
				best = name
			}
		}
		return state[best]
	}
	for seen := range states {
		for mix := range 27 {
			timestamp, snapshot, targets := mix%3, mix/3%3, mix/9
			v := victimOf(t, f)
			serve := func(timestamp, snapshot, targets int) {
				v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
					switch name := r.URL.Path; {
					case strings.HasSuffix(name, "timestamp.json"):
						_, _ = w.Write(newest(states[timestamp], "timestamp"))
					case strings.HasSuffix(name, ".snapshot.json"):
						_, _ = w.Write(newest(states[snapshot], ".snapshot"))
					case strings.HasSuffix(name, ".targets.json"):
						_, _ = w.Write(newest(states[targets], ".targets"))
					default:
						return false
					}
					return true
				})
			}
			serve(seen, seen, seen)
			v.installs(versions[seen])
			serve(timestamp, snapshot, targets)
			what := fmt.Sprintf("timestamp of %s, snapshot of %s, targets of %s after %s", versions[timestamp], versions[snapshot], versions[targets], versions[seen])
			whole := timestamp == snapshot && snapshot == targets
			unchanged := timestamp == seen // no other file is requested
			switch {
			case timestamp < seen:
				v.refuses(what)
			case whole || unchanged:
				v.installs(versions[timestamp])
			default:
				v.refuses(what)
			}
		}
	}
}

// TestRollback: no file of an earlier state is accepted after a later one, in this process
// and in the next.
func TestRollback(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	old := f.save()
	v := victimOf(t, f)
	f.publish("1.1", publish.Expiry{})
	v.installs("1.1")
	v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
		data, ok := old[strings.TrimPrefix(r.URL.Path, "/")]
		if ok {
			_, _ = w.Write(data)
		}
		return ok
	})
	v.refuses("the state before")
	v.restart(now.Add(time.Hour))
	v.refuses("the state before, after a restart")
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		if err := os.Remove(filepath.Join(v.State(), role+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	v.restart(now.Add(time.Hour))
	v.refuses("the state before, with the metadata of this machine lost")
	v.server.set(nil)
	v.installs("1.1")
}

// TestSlowRetrieval: a transfer just fast enough to seem alive is abandoned, for every file,
// and the accepted content stays in use.
func TestSlowRetrieval(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	v := victimOf(t, f)
	v.installs("1.0")
	f.publish("1.1", publish.Expiry{})
	for _, pattern := range requests {
		var asked atomic.Bool
		v.server.set(func(w http.ResponseWriter, r *http.Request) bool {
			if ok, _ := filepath.Match(pattern, strings.TrimPrefix(r.URL.Path, "/")); !ok {
				return false
			}
			asked.Store(true)
			for _, b := range f.read(strings.TrimPrefix(r.URL.Path, "/")) {
				if _, err := w.Write([]byte{b}); err != nil {
					return true
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return true
				case <-time.After(20 * time.Millisecond):
				}
			}
			<-r.Context().Done()
			return true
		})
		v.Impatient(1 << 20)
		version, err := v.install()
		if !errkind.Is(err, errkind.Unavailable) || !asked.Load() {
			t.Errorf("%s: installed %q, %s: %v; want it asked for, and an error of kind %v", pattern, version, errkind.KindOf(err), err, errkind.Unavailable)
		}
		if _, err := v.Offers(t.Context(), app, "stable"); err != nil && !strings.HasPrefix(pattern, "channels") {
			t.Errorf("%s: what was accepted is not in use: %v", pattern, err)
		}
	}
	v.server.set(nil)
	v.Hurry()
	v.installs("1.1")
}

// TestKeyCompromise: the effect of each stolen key, and that the next root ends it.
func TestKeyCompromise(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	v := victimOf(t, f)
	v.installs("1.0")
	genuine := f.save()

	// The key of the timestamp: only content that the owner of the other keys has signed.
	f.signTimestamp(func(m *metadata.TimestampType) { m.Version += 5; m.Meta["snapshot.json"] = metadata.MetaFile(9) })
	forged, err := metadata.Snapshot().FromBytes(f.read(f.newest("snapshot")))
	if err != nil {
		t.Fatal(err)
	}
	forged.Signed.Version = 9
	other := newFixture(t, publish.Expiry{})
	f.write("metadata/9.snapshot.json", sign(other, metadata.SNAPSHOT, forged))
	v.refuses("a snapshot of a thief of the timestamp's key")
	f.restore(genuine)
	f.remove("metadata/9.snapshot.json")

	// The keys of timestamp and snapshot: no other list of packages.
	list, err := metadata.Targets().FromBytes(f.read(f.newest("targets")))
	if err != nil {
		t.Fatal(err)
	}
	list.Signed.Version = 9
	f.write("metadata/9.targets.json", sign(other, metadata.TARGETS, list))
	f.signSnapshot(func(m *metadata.SnapshotType) { m.Meta["targets.json"] = metadata.MetaFile(9) })
	v.refuses("targets of a thief of the online keys")
	v.restart(now.Add(time.Hour))
	f.restore(genuine)
	for _, name := range []string{"9.targets", "9.snapshot"} {
		f.remove("metadata/" + name + ".json")
	}

	// All but the root: the thief publishes an unwanted version, until the root names
	// other keys.
	stolen := t.TempDir()
	if err := os.CopyFS(stolen, os.DirFS(f.dir+".keys")); err != nil {
		t.Fatal(err)
	}
	if err := publish.Rotate(t.Context(), f.dir, publish.RotateOptions{Common: publish.Common{Now: now}}); err != nil {
		t.Fatal(err)
	}
	f.publish("1.1", publish.Expiry{})
	v.installs("1.1")
	thief := &fixture{t: t, dir: filepath.Join(t.TempDir(), "thief")}
	if err := errors.Join(os.CopyFS(thief.dir, os.DirFS(f.dir)), os.CopyFS(thief.dir+".keys", os.DirFS(stolen))); err != nil {
		t.Fatal(err)
	}
	thief.signSnapshot(func(m *metadata.SnapshotType) { m.Version += 100 })
	v.lies("metadata/timestamp.json", thief.read("metadata/timestamp.json"))
	v.refuses("what is signed by replaced keys")
	v.server.set(nil)
	v.installs("1.1")
}

// TestWrongSoftware: content that was signed for another name, channel or file is not
// accepted in its place.
func TestWrongSoftware(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: org.example.other\nversion: \"7\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, channel := range []string{"stable", "edge"} {
		if _, err := publish.Publish(t.Context(), f.dir, src, publish.Options{Common: publish.Common{Now: now}, Channel: channel}); err != nil {
			t.Fatal(err)
		}
	}
	v := victimOf(t, f)
	v.lies("channels/"+app+"/*.json", f.read(f.glob("channels/org.example.other/*.stable.json")))
	v.refuses("the pointer of another package")
	v.lies("channels/org.example.other/*.edge.json", f.read(f.glob("channels/org.example.other/*.stable.json")))
	if _, err := v.Offers(t.Context(), "org.example.other", "edge"); !errkind.Is(err, errkind.Untrusted) {
		t.Errorf("the pointer of another channel is taken: got %v, want an error of kind %v", err, errkind.Untrusted)
	}
	v.lies(repo.BlobPath(f.result.Package), f.read(repo.BlobPath(digest.Of([]byte("1.0")))))
	v.refuses("another file of the repository as the manifest")
	v.lies(repo.BlobPath(digest.Of([]byte("1.0"))), f.read(repo.BlobPath(digest.Of(f.big))))
	v.refuses("another file of the package as content")
	v.server.set(nil)
	v.installs("1.0")
}
