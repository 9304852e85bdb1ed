package repo_test

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// hostile is a tampered repository. Clients that have seen the genuine one before, in an
// earlier run, and new clients must both refuse it.
type hostile struct {
	name    string
	expires publish.Expiry
	tamper  func(t *testing.T, f *fixture)
	kind    errkind.Kind
	want    string // in the error
	fresh   string // the same for a client that has not seen it before; "-" means that it cannot detect the attack
}

var hostiles = []hostile{
	{name: "altered blob", tamper: func(t *testing.T, f *fixture) {
		path := repo.BlobPath(digest.Of(f.big))
		data := f.read(path)
		data[len(data)/2] ^= 1
		f.write(path, data)
	}, kind: errkind.Untrusted, want: `cannot use blob`},
	{name: "another blob", tamper: func(t *testing.T, f *fixture) {
		f.write(repo.BlobPath(digest.Of([]byte("1.0"))), f.read(repo.BlobPath(digest.Of(nil))))
	}, kind: errkind.Untrusted, want: "cannot use blob"},
	{name: "truncated blob", tamper: func(t *testing.T, f *fixture) {
		path := repo.BlobPath(digest.Of(f.big))
		f.write(path, f.read(path)[:1000])
	}, kind: errkind.Untrusted, want: "cannot use blob"},
	{name: "blob truncated between frames", tamper: func(t *testing.T, f *fixture) {
		path := repo.BlobPath(digest.Of(f.big))
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer enc.Close()
		f.write(path, enc.EncodeAll(f.big[:repo.FrameSize], nil))
	}, kind: errkind.Untrusted, want: "cannot use blob"},
	{name: "empty blob file", tamper: func(t *testing.T, f *fixture) {
		f.write(repo.BlobPath(digest.Of([]byte("1.0"))), nil)
	}, kind: errkind.Untrusted, want: "cannot use blob"},
	{name: "blob that wants memory", tamper: func(t *testing.T, f *fixture) {
		var b bytes.Buffer
		enc, err := zstd.NewWriter(&b, zstd.WithWindowSize(zstd.MaxWindowSize))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(enc, io.LimitReader(zeros{}, 64<<20)); err != nil {
			t.Fatal(err)
		}
		enc.Close()
		f.write(repo.BlobPath(digest.Of([]byte("1.0"))), b.Bytes())
	}, kind: errkind.Untrusted, want: "window size exceeded"},
	{name: "missing blob", tamper: func(t *testing.T, f *fixture) {
		f.remove(repo.BlobPath(digest.Of([]byte("1.0"))))
	}, kind: errkind.Unavailable, want: `from repository "main": it is not there`},

	{name: "altered pointer", tamper: func(t *testing.T, f *fixture) {
		path := f.glob("channels/" + app + "/*.stable.json")
		f.write(path, bytes.Replace(f.read(path), []byte("high"), []byte("low "), 1))
	}, kind: errkind.Untrusted, want: "its pointer is not the one that was signed"},
	{name: "huge pointer", tamper: func(t *testing.T, f *fixture) {
		path := f.glob("channels/" + app + "/*.stable.json")
		f.write(path, append(f.read(path), make([]byte, 1<<20)...))
	}, kind: errkind.Untrusted, want: "its pointer is larger than it is signed for"},
	{name: "missing pointer", tamper: func(t *testing.T, f *fixture) {
		f.remove(f.glob("channels/" + app + "/*.stable.json"))
	}, kind: errkind.Unavailable, want: "cannot read channels/" + app + "/stable.json of repository"},
	{name: "signed pointer of another package", tamper: func(t *testing.T, f *fixture) {
		f.signPointer(f.read(f.glob("channels/"+app+"/*.stable.json")), "org.example.other")
	}, kind: errkind.Untrusted, want: `its pointer is for channel "stable" of org.example.other`},
	{name: "signed pointer that is garbage", tamper: func(t *testing.T, f *fixture) {
		f.signPointer([]byte("{}\n"), "")
	}, kind: errkind.Untrusted, want: "cannot trust channel"},

	{name: "expired timestamp", expires: publish.Expiry{Timestamp: time.Minute}, kind: errkind.Untrusted,
		want: `cannot trust repository "main": its timestamp metadata expired on 2026-05-01`},
	{name: "expired snapshot", expires: publish.Expiry{Snapshot: time.Minute}, kind: errkind.Untrusted,
		want: `cannot trust repository "main": its snapshot metadata expired on 2026-05-01`},
	{name: "expired targets", expires: publish.Expiry{Targets: time.Minute}, kind: errkind.Untrusted,
		want: `cannot trust repository "main": its targets metadata expired on 2026-05-01`},
	{name: "expired root", expires: publish.Expiry{Root: time.Minute}, kind: errkind.Untrusted,
		want: `cannot trust repository "main": its root metadata expired on 2026-05-01`},

	{name: "everything rolled back", tamper: func(t *testing.T, f *fixture) {
		f.restore(f.saved)
	}, kind: errkind.Untrusted, want: "timestamp metadata: it was rolled back", fresh: "-"},
	{name: "snapshot rolled back under a new timestamp", tamper: func(t *testing.T, f *fixture) {
		f.signTimestamp(func(m *metadata.TimestampType) { m.Version += 10; m.Meta["snapshot.json"] = metadata.MetaFile(2) })
	}, kind: errkind.Untrusted, want: "timestamp metadata: it was rolled back", fresh: "-"},
	{name: "targets rolled back under a new snapshot", tamper: func(t *testing.T, f *fixture) {
		f.signSnapshot(func(m *metadata.SnapshotType) { m.Meta["targets.json"] = metadata.MetaFile(2) })
	}, kind: errkind.Untrusted, want: "snapshot metadata: it was rolled back", fresh: "-"},
	{name: "snapshot of another version", tamper: func(t *testing.T, f *fixture) {
		f.signTimestamp(func(m *metadata.TimestampType) { m.Version += 10; m.Meta["snapshot.json"] = metadata.MetaFile(9) })
		f.write("metadata/9.snapshot.json", f.read(f.newest("snapshot")))
	}, kind: errkind.Untrusted, want: "snapshot metadata: it was rolled back or mixed up"},
	{name: "snapshot that the timestamp does not mean", tamper: func(t *testing.T, f *fixture) {
		f.publish("1.1", publish.Expiry{})
		f.write(f.newest("snapshot"), append(f.read(f.newest("snapshot")), '\n'))
	}, kind: errkind.Untrusted, want: "snapshot metadata: it is"},
	{name: "wrong key", tamper: func(t *testing.T, f *fixture) {
		f.publish("1.1", publish.Expiry{})
		other := newFixture(t, publish.Expiry{})
		f.write("metadata/timestamp.json", other.read("metadata/timestamp.json"))
	}, kind: errkind.Untrusted, want: "timestamp metadata: its signature is wrong"},
	{name: "altered timestamp", tamper: func(t *testing.T, f *fixture) {
		f.write("metadata/timestamp.json", bytes.Replace(f.read("metadata/timestamp.json"), []byte(`"version":2`), []byte(`"version":9`), 1))
	}, kind: errkind.Untrusted, want: "timestamp metadata: its signature is wrong"},
	{name: "root of somebody else", tamper: func(t *testing.T, f *fixture) {
		f.write("metadata/2.root.json", newFixture(t, publish.Expiry{}).read("root.json"))
	}, kind: errkind.Untrusted, want: "root metadata: its signature is wrong"},
	{name: "oversize timestamp", tamper: func(t *testing.T, f *fixture) {
		f.write("metadata/timestamp.json", make([]byte, 17<<10))
	}, kind: errkind.Untrusted, want: "timestamp metadata: it is too large"},
	{name: "oversize root", tamper: func(t *testing.T, f *fixture) {
		f.write("metadata/2.root.json", make([]byte, 1<<20))
	}, kind: errkind.Untrusted, want: "root metadata: it is too large"},
	{name: "oversize snapshot", tamper: func(t *testing.T, f *fixture) {
		f.signTimestamp(func(m *metadata.TimestampType) {
			m.Version++
			m.Meta["snapshot.json"].Version = 9
			m.Meta["snapshot.json"].Length = 1 << 40
		})
		f.write("metadata/9.snapshot.json", make([]byte, 2<<20))
	}, kind: errkind.Untrusted, want: "snapshot metadata: it is too large"},
	{name: "garbage", tamper: func(t *testing.T, f *fixture) {
		f.write("metadata/timestamp.json", []byte("\x00garbage"))
	}, kind: errkind.Untrusted, want: "timestamp metadata: it is garbage"},
	{name: "no timestamp", tamper: func(t *testing.T, f *fixture) {
		f.remove("metadata/timestamp.json")
	}, kind: errkind.Unavailable, want: `cannot read the timestamp metadata of repository "main": it is not there`},
	{name: "signed timestamp without snapshot", tamper: func(t *testing.T, f *fixture) {
		f.signTimestamp(func(m *metadata.TimestampType) { m.Version += 10; m.Meta = map[string]*metadata.MetaFiles{} })
	}, kind: errkind.Untrusted, want: "the metadata is not complete"},
	{name: "signed snapshot without targets", tamper: func(t *testing.T, f *fixture) {
		f.signSnapshot(func(m *metadata.SnapshotType) { m.Meta = map[string]*metadata.MetaFiles{} })
	}, kind: errkind.Untrusted, want: "metadata"},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sign signs like a thief of a role's key.
func sign[T metadata.Roles](f *fixture, role string, m *metadata.Metadata[T]) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir+".keys", role+".pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	signer, err := signature.LoadSigner(key, crypto.Hash(0))
	if err != nil {
		f.t.Fatal(err)
	}
	m.ClearSignatures()
	if _, err := m.Sign(signer); err != nil {
		f.t.Fatal(err)
	}
	data, err = m.ToBytes(false)
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *fixture) remove(path string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, path)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) newest(role string) string {
	f.t.Helper()
	paths, err := filepath.Glob(filepath.Join(f.dir, "metadata", "*."+role+".json"))
	if err != nil || len(paths) == 0 {
		f.t.Fatal(paths, err)
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) }) // by number
	rel, _ := filepath.Rel(f.dir, paths[len(paths)-1])
	return rel
}

func (f *fixture) signTimestamp(change func(*metadata.TimestampType)) {
	f.t.Helper()
	m, err := metadata.Timestamp().FromBytes(f.read("metadata/timestamp.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	change(&m.Signed)
	f.write("metadata/timestamp.json", sign(f, metadata.TIMESTAMP, m))
}

// signSnapshot publishes a changed snapshot, as a thief of both keys would.
func (f *fixture) signSnapshot(change func(*metadata.SnapshotType)) {
	f.t.Helper()
	m, err := metadata.Snapshot().FromBytes(f.read(f.newest("snapshot")))
	if err != nil {
		f.t.Fatal(err)
	}
	change(&m.Signed)
	m.Signed.Version = 9
	f.write("metadata/9.snapshot.json", sign(f, metadata.SNAPSHOT, m))
	f.signTimestamp(func(m *metadata.TimestampType) { m.Version += 10; m.Meta["snapshot.json"] = metadata.MetaFile(9) })
}

// signPointer publishes a pointer file for the application's stable channel,
// with another name in it unless newName is "".
func (f *fixture) signPointer(data []byte, newName string) {
	f.t.Helper()
	if newName != "" {
		p, err := repo.ParsePointer(data)
		if err != nil {
			f.t.Fatal(err)
		}
		p.Name = newName
		if data, err = p.Encode(); err != nil {
			f.t.Fatal(err)
		}
	}
	sum := digest.Of(data)
	f.write("channels/"+app+"/"+sum.String()+".stable.json", data)
	m, err := metadata.Targets().FromBytes(f.read(f.newest("targets")))
	if err != nil {
		f.t.Fatal(err)
	}
	target := metadata.TargetFile()
	target.Length, target.Hashes["sha256"] = int64(len(data)), sum[:]
	m.Signed.Targets[repo.PointerPath(app, "stable")] = target
	m.Signed.Version = 9
	f.write("metadata/9.targets.json", sign(f, metadata.TARGETS, m))
	f.signSnapshot(func(m *metadata.SnapshotType) { m.Meta["targets.json"] = metadata.MetaFile(9) })
}

func TestHostile(t *testing.T) {
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			f := newFixture(t, publish.Expiry{})
			f.saved = f.save()
			if h.name == "everything rolled back" || h.expires != (publish.Expiry{}) || strings.Contains(h.name, "rolled back") {
				f.publish("1.0", publish.Expiry{})
			}
			states := map[string]string{"path": t.TempDir(), "http": t.TempDir()}
			for _, state := range states {
				if err := install(t.Context(), f.client("", state)); err != nil {
					t.Fatalf("the genuine repository: %v", err)
				}
			}
			if h.expires.Root != 0 {
				// An expired root must be configured: the repository has no
				// newer one.
				f = newFixture(t, h.expires)
			} else if h.expires != (publish.Expiry{}) {
				f.publish("1.1", h.expires)
			}
			if h.tamper != nil {
				h.tamper(t, f)
			}
			check := func(t *testing.T, err error, want string) {
				t.Helper()
				switch {
				case want == "-" && err != nil:
					t.Errorf("got %v", err)
				case want == "-":
				case !errkind.Is(err, h.kind) || !strings.Contains(err.Error(), want):
					t.Errorf("got  %s: %v\nwant %s: …%s…", errkind.KindOf(err), err, h.kind, want)
				case !strings.HasPrefix(err.Error(), "cannot ") || !strings.Contains(err.Error(), `"main"`) && !strings.Contains(err.Error(), "the digest is wrong") || strings.Contains(err.Error(), "\n"):
					t.Errorf("not a good sentence: %q", err)
				}
			}
			fresh := h.fresh
			if fresh == "" {
				fresh = h.want
			}
			for transport, url := range map[string]string{"path": "", "http": f.serve(nil)} {
				t.Run(transport, func(t *testing.T) {
					// Each twice: it is refused both times, also by the
					// next process.
					for range 2 {
						check(t, install(t.Context(), f.client(url, states[transport])), h.want)
					}
				})
				t.Run(transport+", first sight", func(t *testing.T) {
					check(t, install(t.Context(), f.client(url, t.TempDir())), fresh)
				})
			}
		})
	}
}

func TestRootOfTrust(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	other := newFixture(t, publish.Expiry{})
	for name, root := range map[string][]byte{
		"missing": nil, "garbage": []byte("x"), "altered": bytes.Replace(f.root, []byte("ed25519"), []byte("ed25518"), 1),
		"not a root": f.read("metadata/timestamp.json"),
	} {
		_, err := repo.Open(repo.Config{Name: "main", URL: f.dir, Root: root}, t.TempDir())
		if !errkind.Is(err, errkind.Untrusted) || !strings.HasPrefix(err.Error(), `cannot trust repository "main": `) {
			t.Errorf("%s: %v; want an error of kind %v and error that begins with %q", name, err, errkind.Untrusted, `cannot trust repository "main": `)
		}
	}
	one, err := repo.Fingerprints(f.root)
	if two, err2 := repo.Fingerprints(other.root); err != nil || err2 != nil || len(one) != 1 || len(one[0]) != 64 || slices.Equal(one, two) {
		t.Errorf("fingerprints: got %q, %v of one root and %q, %v of another; want one of 64 digits, another one, and no errors", one, err, two, err2)
	}
	for _, bad := range [][]byte{nil, []byte("x"), f.read("metadata/timestamp.json")} {
		if keys, err := repo.Fingerprints(bad); !errkind.Is(err, errkind.Untrusted) {
			t.Errorf("fingerprints of %.10q: %v, %v; want an error of kind %v", bad, keys, err, errkind.Untrusted)
		}
	}
	c, err := repo.Open(repo.Config{Name: "main", URL: f.dir, Root: other.root}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context()); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "timestamp metadata: its signature is wrong") {
		t.Errorf("another root: got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "timestamp metadata: its signature is wrong")
	}
	for _, cfg := range []repo.Config{{Name: "../x", URL: f.dir, Root: f.root}, {Name: "x", URL: "ftp://x", Root: f.root}, {Name: "x", URL: "relative", Root: f.root}} {
		if _, err := repo.Open(cfg, t.TempDir()); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("%s %s: %v; want an error of kind %v", cfg.Name, cfg.URL, err, errkind.Invalid)
		}
	}
}

// Damage to cached files costs a download, never trust.
func TestDamagedState(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	old := f.save()
	f.publish("1.1", publish.Expiry{})
	current := f.save()
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", "marks", "all but marks"} {
		for kind, data := range map[string][]byte{"empty": nil, "garbage": []byte("\x00\x01"), "object": []byte("{}"), "signed": []byte(`{"signed":{"_type":"timestamp","version":1,"meta":{}},"signatures":[]}`)} {
			t.Run(role+" "+kind, func(t *testing.T) {
				f.restore(current)
				state := t.TempDir()
				c := f.client("", state)
				if err := c.Update(t.Context()); err != nil {
					t.Fatal(err)
				}
				roles := []string{role}
				if role == "all but marks" {
					roles = []string{"root", "timestamp", "snapshot", "targets"}
				}
				for _, r := range roles {
					if err := os.WriteFile(filepath.Join(c.State(), r+".json"), data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				f.restore(old)
				if err := f.client("", state).Update(t.Context()); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "rolled back") {
					t.Errorf("rolled back: got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "rolled back")
				}
				f.restore(current)
				if err := install(t.Context(), f.client("", state)); err != nil {
					t.Errorf("genuine: %v", err)
				}
			})
		}
	}
}

// A state directory after a power cut between two writes.
func TestStateHalfWritten(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	state := t.TempDir()
	c := f.client("", state)
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	keep := map[string][]byte{}
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		data, err := os.ReadFile(filepath.Join(c.State(), role+".json"))
		if err != nil {
			t.Fatal(err)
		}
		keep[role] = data
	}
	f.publish("1.1", publish.Expiry{})
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	for role, data := range keep {
		if err := os.WriteFile(filepath.Join(c.State(), role+".json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	saved := f.save()
	f.remove(f.newest("snapshot"))
	if err := f.client("", state).Update(t.Context()); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("a missing snapshot is taken for an attack: %v", err)
	}
	f.restore(saved)
	if err := install(t.Context(), f.client("", state)); err != nil {
		t.Error(err)
	}
}

func TestLocalRepositoryOfSomebodyElse(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	c := f.client("", t.TempDir())
	d := digest.Of([]byte("1.0"))
	path := filepath.Join(f.dir, repo.BlobPath(d))
	for name, make := range map[string]func() error{
		"fifo":             func() error { return syscall.Mkfifo(path, 0o644) },
		"folder":           func() error { return os.Mkdir(path, 0o755) },
		"symlink out":      func() error { return os.Symlink("/etc/passwd", path) },
		"symlink to a tty": func() error { return os.Symlink("/dev/zero", path) },
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if _, err := fetch(t.Context(), c, d); !errkind.Is(err, errkind.Unavailable) && !errkind.Is(err, errkind.Untrusted) {
			t.Errorf("%s: got %v, want an error of kind %v or %v", name, err, errkind.Unavailable, errkind.Untrusted)
		}
	}
}

// TestNoFolder: a repository that is not there is told from one that lacks a file.
func TestNoFolder(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	c := f.client("", t.TempDir())
	if err := os.RemoveAll(f.dir); err != nil {
		t.Fatal(err)
	}
	_, err := fetch(t.Context(), c, digest.Of([]byte("1.0")))
	if want := "open " + f.dir + ": no such file or directory"; !errkind.Is(err, errkind.Unavailable) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error of kind %v with %q", err, errkind.Unavailable, want)
	}
}

func TestHostileServer(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		kind    errkind.Kind
		want    string
	}{
		"endless metadata":     {func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, zeros{}) }, errkind.Untrusted, "root metadata: it is too large"},
		"redirects in circles": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, errkind.Unavailable, "it is redirected too often"},
		"forbidden":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, errkind.Unavailable, "the server answered 403 Forbidden"},
		"overloaded":           {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, errkind.Unavailable, "the server answered 503 Service Unavailable"},
		"headers without end": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			w.WriteHeader(200)
		}, errkind.Unavailable, "server response headers exceeded"},
		"stands still": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, errkind.Unavailable, "the transfer stands still"},
	} {
		t.Run(name, func(t *testing.T) {
			client := f.client(f.serve(c.handler), t.TempDir())
			if err := client.Update(t.Context()); !errkind.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s: %v; want an error of kind %v and %q in the error", errkind.KindOf(err), err, c.kind, c.want)
			}
		})
	}
}

// Servers that answer a range with other content.
func TestWrongRanges(t *testing.T) {
	f := newFixture(t, publish.Expiry{})
	d := digest.Of(f.big)
	for name, header := range map[string]string{"none": "", "garbage": "bytes x", "elsewhere": "bytes 99999999-99999999/100000000", "negative": "bytes -5--1/3"} {
		t.Run(name, func(t *testing.T) {
			c := f.client(f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", header)
				w.WriteHeader(http.StatusPartialContent)
				w.Write(make([]byte, 100))
			})), t.TempDir())
			r, err := c.Blob(t.Context(), d, repo.FrameSize)
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if err == nil {
				t.Error("no error")
			}
		})
	}
}
