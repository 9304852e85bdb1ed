package files_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
)

// points are passed between the copy, the conversion, the publication and the installation.
var points = []string{"local.receive", "local.convert", "local.publish", "local.published"}

// TestKilled: an agent that is killed between two steps leaves nothing behind after its
// next start, and the file can be installed then; also where another version is installed.
func TestKilled(t *testing.T) {
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			s := set(t, rig.Options{}, "LULL_FAULT="+point+":kill")
			one, two := s.tarball("1.0", nil), s.tarball("2.0", nil)
			for _, file := range []string{one, two} {
				if r := s.Lull("install", file); r.Code == 0 {
					t.Fatalf("the agent was not killed: %v", r)
				}
				<-s.Agent().Done()
				s.StartAgent()
				s.clean()
				if file == one {
					s.pruned()
				}
				s.MustLull("install", one)
				s.runs("1.0")
				if file == one {
					s.StopAgent()
					s.StartAgent("LULL_FAULT=" + point + ":kill")
				}
			}
			s.MustLull("install", two)
			s.runs("2.0")
		})
	}
}

// TestFails: a step that fails, as on a full disk, has one clear error and leaves nothing.
func TestFails(t *testing.T) {
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			s := set(t, rig.Options{}, "LULL_FAULT="+point+":enospc")
			file := s.tarball("1.0", nil)
			if r := s.Lull("install", file); r.Code != 73 || !strings.Contains(r.Stderr, "no space left on device") {
				t.Errorf("got %v, want exit status 73 and %q in the error output", r, "no space left on device")
			}
			s.clean()
			s.MustLull("install", file)
			s.runs("1.0")
		})
	}
}

// TestTwice: two commands install the same file at the same time.
func TestTwice(t *testing.T) {
	s := set(t, rig.Options{})
	file := s.tarball("1.0", map[string]string{"data": strings.Repeat("data\n", 100_000)})
	var wg sync.WaitGroup
	results := make([]rig.Result, 4)
	for i := range results {
		wg.Go(func() { results[i] = s.Lull("install", file) })
	}
	wg.Wait()
	for _, r := range results {
		if r.Code != 0 {
			t.Errorf("got %v, want exit status 0", r)
		}
	}
	s.runs("1.0")
	s.clean()
}

// TestHostile: files that no package may be made of are refused with their path.
func TestHostile(t *testing.T) {
	s := set(t, rig.Options{})
	for name, want := range map[string]string{
		"dots-1.0.tar":   `the path "../../etc/cron.d/x" leads out of the package`,
		"twice-1.0.tar":  `is below the symlink`,
		"secret-1.0.tar": "it has private keys",
	} {
		dir, file := s.Path(strings.TrimSuffix(name, ".tar")), s.Path(name)
		if err := os.MkdirAll(dir+"/bin", 0o755); err != nil {
			t.Fatal(err)
		}
		script := map[string]string{
			"dots-1.0.tar":   `cd "$1" && touch x && tar -cPf "$2" --transform 's,^x$,../../etc/cron.d/x,' x`,
			"twice-1.0.tar":  `cd "$1" && ln -s /etc out && tar -cf "$2" out && rm out && mkdir out && touch out/passwd && tar -rf "$2" out/passwd`,
			"secret-1.0.tar": `cd "$1" && touch bin/x && chmod 755 bin/x && printf -- '-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n' >key && tar -cf "$2" bin key`,
		}[name]
		if r := s.Admin.Run("sh", "-ec", script, "sh", dir, file); r.Code != 0 {
			t.Fatalf("got %v, want exit status 0", r)
		}
		if r := s.Lull("install", file); r.Code == 0 || !strings.Contains(r.Stderr, want) || strings.Contains(r.Stderr, s.Store) {
			t.Errorf("%s: want %q, got %v", name, want, r)
		}
	}
	s.clean()
	if n := s.blobs(); n != 0 {
		t.Errorf("%d blobs are published, want 0", n)
	}
}

// TestRights: services, hooks and bus names are shown, and nothing is published before
// they are confirmed. A confirmation is for what was shown.
func TestRights(t *testing.T) {
	s := set(t, rig.Options{})
	file := s.tarball("1.0", nil)
	with := filepath.Join(s.Path(), "with.yaml")
	const overlay = "apps: [{name: notes, command: bin/notes, dbus-name: org.example.notes}]\nservices: [{name: sync, command: [bin/notes, sleep, infinity]}]\nhooks: {health: [bin/notes]}\n"
	if err := os.WriteFile(with, []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	r := s.Lull("install", "--with", with, file)
	want := "notes 1.0 asks for these rights:\n  the service sync runs as root: bin/notes sleep infinity\n  the hook health runs as root: bin/notes\n  the app notes has the bus name org.example.notes\n" +
		"lull: cannot install notes: its rights are not confirmed\n"
	if r.Code != 77 || !strings.Contains(r.Stderr, want) {
		t.Errorf("without a confirmation: %v", r)
	}
	s.clean()
	if n := s.blobs(); n != 0 {
		t.Errorf("%d blobs are published without a confirmation, want 0", n)
	}
	c := s.client()
	id := c.send(t, file)
	options := map[string]dbus.Variant{"lull-yaml": dbus.MakeVariant(overlay), "confirm": dbus.MakeVariant(strings.Repeat("0", 64))}
	path, made := c.install(t, options, id)
	confirm, _ := made["confirm"].Value().(string)
	if path != "/" || len(confirm) != 64 {
		t.Fatalf("a wrong confirmation: %v %v; want path %q and 64 confirm", path, made, "/")
	}
	options["confirm"] = dbus.MakeVariant(confirm)
	options["version"] = dbus.MakeVariant("2.0")
	if path, made := c.install(t, options, id); path != "/" || made["confirm"].Value() == confirm {
		t.Errorf("the confirmation of other options: got path %q and %v, want \"/\" and another confirmation than %s", path, made, confirm)
	}
	delete(options, "version")
	if path, _ := c.install(t, options, id); path == "/" {
		t.Errorf("the right confirmation is refused")
	}
	s.Until("it is installed", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		return p.Str("Version") == "1.0", p.Str("Version")
	})
	if r := s.MustLull("install", "--yes", "--with", with, file); r.Stdout != "notes 1.0 is already installed\n" {
		t.Errorf("got %v, want output %q", r, "notes 1.0 is already installed\n")
	}
}

// TestOtherRepository: what is installed from a repository is not replaced by a file.
func TestOtherRepository(t *testing.T) {
	s := set(t, rig.Options{})
	s.MustLull("publish", s.tarball("1.0", nil), "--repo", s.Repo)
	s.MustLull("repo", "add", "other", s.Repo)
	s.MustLull("install", notes)
	s.refused(1, "cannot install notes from a file: it is installed from channel stable of the repository other", "install", s.tarball("2.0", nil))
	s.MustLull("install", "--key", "mine", s.tarball("2.0", nil))
	s.runs("1.0")
	if r := s.User.Lull("run", "notes_mine"); r.Stdout != "notes 2.0\n" {
		t.Errorf("got %v, want output %q", r, "notes 2.0\n")
	}
}

// TestFull: a file that does not fit on the disk is refused while it is sent.
func TestFull(t *testing.T) {
	const mib = 1 << 20
	s := set(t, rig.Options{Root: rig.SmallDisk(t, 160*mib)})
	big := s.Path("big-1.0.tar")
	f, err := os.Create(big)
	if err == nil {
		err = errors.Join(f.Truncate(200*mib), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.refused(73, "cannot receive the file big-1.0.tar: the disk is full", "install", big)
	s.clean()
	s.MustLull("install", s.tarball("1.0", nil))
	s.runs("1.0")
}
