package publish_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

func TestInit(t *testing.T) {
	dir := initRepo(t)
	for name, mode := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "root.pem": 0o600, "targets.pem": 0o600, "snapshot.pem": 0o600, "timestamp.pem": 0o600} {
		fi, err := os.Stat(filepath.Join(dir+".keys", name))
		if err != nil {
			t.Error(err)
		} else if fi.Mode() != mode {
			t.Errorf("%s: got mode %v, want %v", name, fi.Mode(), mode)
		}
	}
	for _, path := range tree(t, dir) {
		if strings.HasSuffix(path, ".pem") {
			t.Errorf("%s is in the repository, want no keys there", path)
		}
	}
	key, err := os.ReadFile(dir + ".keys/root.pem")
	must(t, err)
	if err := publish.Init(t.Context(), dir, publish.InitOptions{}); !errkind.Is(err, errkind.Exists) {
		t.Error(err)
	}
	if again, _ := os.ReadFile(dir + ".keys/root.pem"); string(again) != string(key) {
		t.Error("the key was replaced")
	}
	must(t, os.Symlink(dir, dir+".link"))
	for _, keys := range []string{dir, dir + "/keys", dir + "/a/../b", dir + ".link/keys"} {
		if err := publish.Init(t.Context(), dir+"/../repository", publish.InitOptions{Common: publish.Common{Keys: keys}}); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("keys in %s: %v; want an error of kind %v", keys, err, errkind.Invalid)
		}
	}
	if err := open(t, dir).Update(t.Context()); err != nil {
		t.Errorf("an empty repository: %v", err)
	}
}

// A killed Init is repeated with the keys that it has made.
func TestInitAgain(t *testing.T) {
	dir := initRepo(t)
	root, err := os.ReadFile(dir + "/root.json")
	must(t, err)
	must(t, os.Remove(dir+"/metadata/timestamp.json"))
	must(t, os.Remove(dir+"/metadata/1.targets.json"))
	must(t, os.Remove(dir+".keys/root.json"))
	must(t, os.WriteFile(dir+".keys/.init", nil, 0o600)) // it was interrupted
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{}))
	must(t, open(t, dir).Update(t.Context()))
	c, err := repo.Open(repo.Config{Name: "x", URL: dir, Root: root}, t.TempDir())
	must(t, err)
	must(t, c.Update(t.Context()))
}

func TestKeysMustBePrivate(t *testing.T) {
	dir := initRepo(t)
	must(t, os.Chmod(dir+".keys/targets.pem", 0o644))
	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n"}), publish.Options{})
	if err == nil || !strings.Contains(err.Error(), "targets.pem: others can read it: its mode must be 0600") {
		t.Error(err)
	}
	must(t, open(t, dir).Update(t.Context()))
}

// Write access to the web server is not enough to get content signed.
func TestTamperedRepositoryIsNotSigned(t *testing.T) {
	src := source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n"})
	other := initRepo(t)
	for _, name := range []string{"metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json", "metadata/2.root.json"} {
		dir := initRepo(t)
		from := name
		if name == "metadata/2.root.json" {
			from = "root.json"
		}
		data, err := os.ReadFile(filepath.Join(other, from))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		_, err = publish.Publish(t.Context(), dir, src, publish.Options{})
		if !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "somebody else has changed") {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", name, err, errkind.Untrusted, "somebody else has changed")
		}
		if err := publish.Resign(t.Context(), dir, publish.ResignOptions{}); !errkind.Is(err, errkind.Untrusted) {
			t.Errorf("%s: %v; want an error of kind %v", name, err, errkind.Untrusted)
		}
	}
	_, err := publish.Publish(t.Context(), t.TempDir(), src, publish.Options{})
	if !errkind.Is(err, errkind.Invalid) || errkind.HintOf(err) == "" {
		t.Errorf("no repository: %v", err)
	}
}

func TestResign(t *testing.T) {
	dir := initRepo(t)
	c := open(t, dir)
	must(t, c.Update(t.Context()))
	// A cron job needs the timestamp's key only.
	for _, role := range []string{"root", "targets", "snapshot"} {
		must(t, os.Rename(dir+".keys/"+role+".pem", dir+"."+role))
	}
	before, err := os.ReadFile(dir + "/metadata/timestamp.json")
	must(t, err)
	must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{}))
	after, err := os.ReadFile(dir + "/metadata/timestamp.json")
	must(t, err)
	if string(before) == string(after) {
		t.Error("nothing has changed")
	}
	must(t, c.Update(t.Context()))
	if err := publish.Resign(t.Context(), dir, publish.ResignOptions{All: true}); err == nil {
		t.Error("all was signed without keys")
	}
	must(t, c.Update(t.Context()))
	for _, role := range []string{"root", "targets", "snapshot"} {
		must(t, os.Rename(dir+"."+role, dir+".keys/"+role+".pem"))
	}
	must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{All: true, Common: publish.Common{Expires: publish.Expiry{Timestamp: -time.Hour}}}))
	if err := c.Update(t.Context()); !errkind.Is(err, errkind.Untrusted) {
		t.Errorf("expired: got %v, want an error of kind %v", err, errkind.Untrusted)
	}
	for range 70 {
		must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{All: true}))
	}
	if n := len(tree(t, dir+"/metadata")); n > 2*64+5 {
		t.Errorf("got %d files of metadata, want at most %d", n, 2*64+5)
	}
	must(t, c.Update(t.Context()))
}

// A rotation that is killed after its new root is finished by the next one, and readers see
// no error.
func TestRotateKilled(t *testing.T) {
	dir := initRepo(t)
	keys := dir + ".keys/"
	anchor, err := os.ReadFile(keys + "root.json")
	must(t, err)
	c := open(t, dir)
	must(t, publish.Rotate(t.Context(), dir, publish.RotateOptions{}))
	must(t, c.Update(t.Context()))
	for i, role := range publish.Roles {
		must(t, os.Rename(keys+role+".pem", keys+role+".pem.new"))
		if i > 0 { // killed between two keys
			must(t, os.Rename(keys+role+".pem.old", keys+role+".pem"))
		}
	}
	must(t, os.WriteFile(keys+"root.json", anchor, 0o644))
	_, err = publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n"}), publish.Options{})
	must(t, err)
	must(t, c.Update(t.Context()))
	must(t, publish.Rotate(t.Context(), dir, publish.RotateOptions{Roles: []string{"timestamp"}}))
	must(t, c.Update(t.Context()))
	if _, err := c.Channel(t.Context(), "a", "stable"); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(keys + "*.new")
	if len(left) != 0 || err != nil {
		t.Errorf("got new keys %v left, %v; want none and no error", left, err)
	}
	if err := publish.Rotate(t.Context(), dir, publish.RotateOptions{Roles: []string{"x"}}); !errkind.Is(err, errkind.Usage) {
		t.Error(err)
	}
}
