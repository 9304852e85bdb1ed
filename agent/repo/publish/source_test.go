package publish_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
)

func ecKey(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalECPrivateKey(k)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

const tiny = "name: a\nversion: 1\n"

// paths publishes a source and returns the paths in the package.
func paths(t *testing.T, dir, src string, o publish.Options) ([]string, *publish.Result) {
	t.Helper()
	res, err := publish.Publish(t.Context(), dir, src, o)
	must(t, err)
	m := readMeta(t, open(t, dir), res.Package)
	var list []string
	for _, e := range m.Entries {
		list = append(list, e.Path)
	}
	return list, res
}

// A repository inside the package source has its keys there.
func TestKeysInsideSourceAreRefused(t *testing.T) {
	src := source(t, map[string]string{"lull.yaml": tiny, "app*": "#!/bin/sh\n"})
	dir := filepath.Join(src, "repo")
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{}))
	_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
	if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), "repo.keys") || !strings.Contains(err.Error(), "private keys") || errkind.HintOf(err) == "" {
		t.Fatalf("got %v with hint %q; want an error of kind %v that names repo.keys and private keys, with a hint", err, errkind.HintOf(err), errkind.Invalid)
	}
	// No option permits the publication of the repository's own keys.
	for _, allow := range []string{"repo.keys", "repo.keys/root.pem"} {
		if _, err := publish.Publish(t.Context(), dir, src, publish.Options{AllowKey: []string{allow}}); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("allowed %s: %v; want an error of kind %v", allow, err, errkind.Invalid)
		}
	}
	must(t, os.WriteFile(src+"/.lullignore", []byte("/repo.keys/\n"), 0o644))
	got, res := paths(t, dir, src, publish.Options{})
	if !slices.Equal(got, []string{"app"}) {
		t.Errorf("the package has %q; want %v", got, []string{"app"})
	}
	if want := []publish.Omission{{Path: "repo", Why: "a repository"}, {Path: "repo.keys"}}; !reflect.DeepEqual(res.Omitted, want) {
		t.Errorf("left out %v, want %v", res.Omitted, want)
	}
}

func TestPrivateKeysAreRefused(t *testing.T) {
	dir := initRepo(t)
	ec := ecKey(t)
	for name, content := range map[string]string{
		"etc/tls.pem":    "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n" + ec,
		"windows":        strings.ReplaceAll(ec, "\n", "\r\n"),
		"id_ed25519":     "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
		"encrypted.pem":  "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
		"gpg.asc":        "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n=AAAA\n-----END PGP PRIVATE KEY BLOCK-----\n",
		"age.txt":        "# created: 2026\nAGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ\n",
		"mini.key":       "untrusted comment: minisign encrypted secret key\nAAAA\n",
		"putty.ppk":      "PuTTY-User-Key-File-3: ssh-ed25519\n",
		"deep/er/a.keep": ec,
	} {
		src := source(t, map[string]string{"lull.yaml": tiny, name: content})
		_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
		if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", name, err, errkind.Invalid, name)
		}
		if got, _ := paths(t, dir, src, publish.Options{AllowKey: []string{"./" + name}}); !slices.Equal(got, []string{name}) {
			t.Errorf("allowed: %s: %q; want %v", name, got, []string{name})
		}
		must(t, os.WriteFile(src+"/.lullignore", []byte(filepath.Base(name)+"\n"), 0o644))
		_, res := paths(t, dir, src, publish.Options{})
		if len(res.Omitted) != 1 || res.Omitted[0].Path != name {
			t.Errorf("ignored: %s: %v; want 1 omitted and path %v", name, res.Omitted, name)
		}
	}
	for name, content := range map[string]string{
		"code.go":    "const begin = \"-----BEGIN EC PRIVATE KEY-----\"\n",
		"public.pem": "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n",
	} {
		if got, _ := paths(t, dir, source(t, map[string]string{"lull.yaml": tiny, name: content}), publish.Options{}); !slices.Equal(got, []string{name}) {
			t.Errorf("%s: %q; want %v", name, got, []string{name})
		}
	}
	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": tiny}), publish.Options{AllowKey: []string{"gone"}})
	if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), `"gone"`) {
		t.Error(err)
	}
}

func TestIgnore(t *testing.T) {
	dir := initRepo(t)
	files := map[string]string{"lull.yaml": tiny}
	for _, f := range []string{
		".git/config", "sub/.git", ".env", "a~", "b/.x.swp", ".ssh/id", "keep/.env.sample", "build/x.o", "src/x.o", "src/deep/y.o", "docs/build/page",
		"tmp/a", "tmp/b", "only/one.log", "braces{1}", "{1}", "important.o", "copy/metadata/timestamp.json", "copy/blobs/x", "metadata/notes",
	} {
		files[f] = f
	}
	files[".lullignore"] = "# comment\n\n*.o\n!important.o\n/build/\ntmp/*\n!tmp/b\nonly/**/*.log\n{1}  \n!.env\n"
	got, res := paths(t, dir, source(t, files), publish.Options{})
	want := []string{".env", "b", "braces{1}", "docs/build/page", "important.o", "keep/.env.sample", "metadata/notes", "only", "src/deep", "sub", "tmp/b"}
	if !slices.Equal(got, want) {
		t.Errorf("the package has\n%q, want\n%q", got, want)
	}
	var left []string
	for _, o := range res.Omitted {
		left = append(left, o.Path)
	}
	if want := []string{".git", ".ssh", "a~", "b/.x.swp", "build", "copy", "only/one.log", "src/deep/y.o", "src/x.o", "sub/.git", "tmp/a", "{1}"}; !slices.Equal(left, want) {
		t.Errorf("left out\n%q, want\n%q", left, want)
	}

	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": tiny, ".lullignore": "ok\n[z-\n"}), publish.Options{})
	if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), ".lullignore:2: cannot use the pattern") {
		t.Error(err)
	}
	must(t, os.WriteFile(dir+"/lull.yaml", []byte(tiny), 0o644))
	if _, err := publish.Publish(t.Context(), dir, dir, publish.Options{}); !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), "it is a repository") {
		t.Error(err)
	}
}

func TestResultDescribesPackage(t *testing.T) {
	dir := initRepo(t)
	_, res := paths(t, dir, source(t, map[string]string{
		"lull.yaml": tiny, "bin/b*": "12345678", "bin/a*": "1", "c": "123", "d": "1234", "e": "12345", "f": "123456", "g": "12",
	}), publish.Options{})
	if res.Files != 7 || res.FileBytes != 29 {
		t.Errorf("%d files, %d bytes", res.Files, res.FileBytes)
	}
	if want := []publish.File{{Path: "bin/b", Size: 8}, {Path: "f", Size: 6}, {Path: "e", Size: 5}, {Path: "d", Size: 4}, {Path: "c", Size: 3}}; !slices.Equal(res.Largest, want) {
		t.Errorf("the largest: got %v, want largest %v", res.Largest, want)
	}
	if !slices.Equal(res.Executables, []string{"bin/a", "bin/b"}) {
		t.Errorf("executables: got %v, want executables %v", res.Executables, []string{"bin/a", "bin/b"})
	}
}

// With a umask of 077 the web server of another user can read the repository, and also the
// files of an earlier lull.
func TestUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := initRepo(t)
	src := source(t, map[string]string{"lull.yaml": tiny, "small": "x", "large": strings.Repeat("0123456789abcdef", 300_000)})
	paths(t, dir, src, publish.Options{})
	check := func() {
		t.Helper()
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := d.Info()
			want := fs.FileMode(0o044)
			if d.IsDir() {
				want = 0o055
			}
			if err == nil && fi.Mode().Perm()&want != want {
				t.Errorf("%s has mode %s, want at least %s", path, fi.Mode(), want)
			}
			return err
		}))
	}
	check()
	blobs, err := filepath.Glob(dir + "/blobs/*/*")
	must(t, err)
	for _, b := range blobs {
		must(t, os.Chmod(b, 0o600))
	}
	paths(t, dir, src, publish.Options{})
	check()
	// An intentionally private directory remains so, and is named.
	must(t, os.Chmod(dir, 0o700))
	_, res := paths(t, dir, src, publish.Options{})
	if !slices.Contains(res.Private, dir) {
		t.Errorf("got private directories %q, want %s among them", res.Private, dir)
	}
}
