package publish

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
)

var signedAt = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

// openState makes a repository with bins and returns its state.
func openState(t testing.TB) (dir string, s *state) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	c := Common{Now: signedAt}
	if err := Init(t.Context(), dir, InitOptions{Common: c}); err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: a\nversion: \"1\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Publish(t.Context(), dir, src, Options{Common: c}); err != nil {
		t.Fatal(err)
	}
	if err := Resign(t.Context(), dir, ResignOptions{Common: c, Bins: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.transact(t.Context(), dir, false, func(opened *state) error { s = opened; return nil }); err != nil {
		t.Fatal(err)
	}
	return dir, s
}

// TestSnapshotIsThatOfTUF: go-tuf writes and verifies the same bytes.
func TestSnapshotIsThatOfTUF(t *testing.T) {
	_, s := openState(t)
	ours, err := s.signedSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := metadata.Snapshot().FromBytes(ours)
	if err == nil {
		err = s.root.VerifyDelegate(metadata.SNAPSHOT, parsed)
	}
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := signed(s, metadata.SNAPSHOT, parsed)
	if err != nil || !bytes.Equal(ours, theirs) {
		t.Errorf("it is %s\nwant %s, %v", ours, theirs, err)
	}
	if s.openPlain(ours) == nil {
		t.Error("it is left to go-tuf")
	}
	// go-tuf reads other forms.
	spaced := bytes.ReplaceAll(ours, []byte(`,"`), []byte(`, "`))
	if s.openPlain(spaced) != nil {
		t.Error("another form is read as the own one")
	}
	if m, err := s.openSnapshot(spaced); err != nil || m.Signed.Version != s.snapshot.Signed.Version {
		t.Error(err)
	}
	s.snapshot.Signed.UnrecognizedFields = map[string]any{"x-other": "<a & b>"}
	ours, err = s.signedSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.openSnapshot(ours); err != nil || m.Signed.UnrecognizedFields["x-other"] != "<a & b>" {
		t.Errorf("an unknown field is lost: %v", err)
	}
}

// TestSnapshotsThatAreRefused: a snapshot that the keys have not signed is refused.
func TestSnapshotsThatAreRefused(t *testing.T) {
	_, s := openState(t)
	good, err := s.signedSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	_, other := openState(t)
	foreign, err := other.signedSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	sig := string(good[bytes.Index(good, []byte(`{"keyid"`)):bytes.Index(good, []byte("]"))])
	role := s.root.Signed.Roles[metadata.SNAPSHOT]
	for name, c := range map[string]struct {
		data      string
		threshold int
	}{
		"another version":      {strings.Replace(string(good), `"spec_version":"1.0.31","version":`, `"spec_version":"1.0.31","version":1`, 1), 1},
		"other keys":           {string(foreign), 1},
		"no signature":         {strings.Replace(string(good), sig, "", 1), 1},
		"too few":              {string(good), 2},
		"one signature twice":  {strings.Replace(string(good), sig, sig+","+sig, 1), 2},
		"a threshold of zero":  {string(good), 0},
		"something follows it": {string(good) + "{}", 1},
		"nothing":              {"", 1},
		"null":                 {"null", 1},
		"an entry of nothing":  {strings.Replace(string(good), `"targets.json":{`, `"targets.json":null,"x":{`, 1), 1},
	} {
		role.Threshold = c.threshold
		if c.data == string(good) && c.threshold == 1 {
			t.Errorf("%s: the change has no effect, want another file or threshold", name)
		}
		if m, err := s.openSnapshot([]byte(c.data)); err == nil {
			t.Errorf("%s: accepted as %+v; want an error", name, m)
		}
	}
}

// packed is the size of metadata on the wire, compressed like nginx does with gzip_comp_level 6.
func packed(b *testing.B, data []byte) int {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, 6)
	if _, err := z.Write(data); err != nil {
		b.Fatal(err)
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Len()
}

// BenchmarkBins reports what a machine with 20 packages reads after 2 % of all were published,
// by the number of packages and of bins, beside the timestamp and the offers. A request has
// 430 bytes of headers.
func BenchmarkBins(b *testing.B) {
	_, s := openState(b)
	for _, size := range []int{1_000, 10_000, 100_000} {
		for bits := 8; bits <= 13; bits++ {
			b.Run(fmt.Sprintf("packages=%d/bins=%d", size, 1<<bits), func(b *testing.B) {
				d := metadata.SuccinctRoles{BitLength: bits, NamePrefix: binPrefix}
				roles, lists := make([]string, size), map[string]*metadata.Metadata[metadata.TargetsType]{}
				for i := range roles {
					path := repo.PointerPath(fmt.Sprintf("org.example.package%06d", i), "stable")
					roles[i] = d.GetRolesForTarget(path)[0].Name
					if lists[roles[i]] == nil {
						lists[roles[i]] = metadata.Targets(signedAt)
					}
					t := metadata.TargetFile()
					t.Length, t.Hashes["sha256"] = 300, make([]byte, digest.Size)
					_, _ = rand.Read(t.Hashes["sha256"])
					lists[roles[i]].Signed.Targets[path] = t
				}
				changed := map[string]bool{}
				s.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": metadata.MetaFile(1)}
				for role := range lists {
					s.snapshot.Signed.Meta[role+".json"] = metadata.MetaFile(1)
				}
				for _, i := range mrand.Perm(size)[:size/50] {
					changed[roles[i]] = true
					s.snapshot.Signed.Meta[roles[i]+".json"].Version++
				}
				snapshot, err := s.signedSnapshot()
				if err != nil {
					b.Fatal(err)
				}
				var requests, read int
				n := 0
				for b.Loop() {
					n++
					requests, read = requests+1, read+packed(b, snapshot)
					mine := map[string]bool{}
					for _, i := range mrand.Perm(size)[:20] {
						mine[roles[i]] = changed[roles[i]]
					}
					for role, new := range mine {
						if !new {
							continue
						}
						data, err := signed(s, metadata.TARGETS, lists[role])
						if err != nil {
							b.Fatal(err)
						}
						requests, read = requests+1, read+packed(b, data)
					}
				}
				b.ReportMetric(float64(requests)/float64(n), "requests")
				b.ReportMetric(float64(read+430*requests)/float64(n)/1000, "kB")
			})
		}
	}
}
