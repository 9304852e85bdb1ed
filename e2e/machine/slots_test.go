package machine_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// slotSize is that of an image, in bytes.
const slotSize = 128 << 20

// example returns the files of docs/system.md, by their path in the package of the update.
func example(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Module(), "docs/system.md"))
	must(t, err)
	files := map[string]string{}
	for _, block := range regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAllString(string(text), -1) {
		block = regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, "")
		name := regexp.MustCompile(`^(?:#!/bin/sh\n)?# ([a-z./]+)`).FindStringSubmatch(block)
		if name == nil {
			t.Fatalf("the page has a file without a name:\n%s", block)
		}
		if filepath.Ext(name[1]) == ".json" { // has no comments
			_, block, _ = strings.Cut(block, "\n")
		}
		files[name[1]] = block
	}
	if len(files) != 6 {
		t.Fatalf("the page has these files: got %v, want 6 files", files)
	}
	return files
}

// publishUpdate makes a repository with a version of the system of docs/system.md. image is
// its root file system, script its health hook.
func publishUpdate(t *testing.T, repo, version, image, script string) {
	t.Helper()
	dir := t.TempDir()
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), mode))
	}
	for path, text := range example(t) {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(path, "hooks/") {
			mode = 0o755
		} else {
			text = strings.ReplaceAll(text, `"2"`, `"`+version+`"`)
		}
		put("os/"+path, text, mode)
	}
	put("os.base/lull.yaml", "name: org.example.os.base\nversion: \""+version+"\"\nhooks: {health: [hooks/health]}\n", 0o644)
	put("os.base/hooks/health", "#!/bin/sh\n"+script+"\n", 0o755)
	put("os.image/lull.yaml", "name: org.example.os.image\nversion: \""+version+"\"\n", 0o644)
	must(t, os.Rename(image, filepath.Join(dir, "os.image/root.img")))
	lull := filepath.Join(rig.Binaries(t, ""), "lull")
	out, err := exec.Command(lull, "repo", "init", repo).CombinedOutput()
	if err == nil {
		cmd := exec.Command(lull, "publish", "os.image", "os.base", "os", "--repo", repo)
		cmd.Dir = dir
		out, err = cmd.CombinedOutput()
	}
	if err != nil || !strings.Contains(string(out), "lull system stage org.example.os") {
		t.Fatalf("lull publish: %v\n%s", err, out)
	}
	must(t, os.RemoveAll(dir))
}

// slots is a machine with two slots.
type slots struct {
	*testing.T
	*rig.VM
}

// TestSlots is the life of docs/system.md on a machine with two root partitions: the
// packages are those of the page, and each slot has the agent that its image has.
func TestSlots(t *testing.T) {
	require.QEMU(t)
	require.Program(t, "debugfs")
	require.NotShort(t)
	if os.Getenv("LULL_MACHINE") != "all" {
		t.Skip("it takes four minutes, and agent/sysupdate TestExample runs the same hooks: LULL_MACHINE=all, as in make nightly")
	}
	dir := t.TempDir()
	image := func(version string) string {
		path := filepath.Join(dir, "root-"+version+".img")
		rig.SlotImage(t, path, slotSize, map[string]string{"etc/image": version + "\n"})
		return path
	}
	// Version 2 does not start: its image is no file system. Version 4 starts, and does not work.
	broken := filepath.Join(dir, "root-2.img")
	must(t, os.WriteFile(broken, make([]byte, 1<<20), 0o644))
	publishUpdate(t, filepath.Join(dir, "v2"), "2", broken, "true")
	publishUpdate(t, filepath.Join(dir, "v3"), "3", image("3"), "grep -q 3 /etc/image")
	publishUpdate(t, filepath.Join(dir, "v4"), "4", image("4"), "! grep 4 /etc/image")
	s := slots{t, rig.StartVM(t, rig.VMOptions{
		Files: map[string]string{"/v2": filepath.Join(dir, "v2"), "/v3": filepath.Join(dir, "v3"), "/v4": filepath.Join(dir, "v4")},
		Slots: &rig.Slots{A: image("1"), Size: slotSize, Boot: map[string]string{"default": "a\n", "os-a.conf": "root=PARTLABEL=os-a lull.system=1\n"}},
	})}
	s.WaitBoot()
	s.is("a", "1", "idle", "")

	// A slot that does not start.
	s.stage("2")
	s.is("a", "1", "staged", "")
	s.off()
	if err := s.TryBoot(); err == nil || !strings.Contains(s.Console(), "cannot mount") {
		t.Fatalf("slot b starts: %v\n%s", err, s.Console())
	}
	must(t, s.WaitExit(limit))
	s.Boot()
	s.WaitBoot()
	s.is("a", "1", "staged", "")
	if r := s.VM.Run("lull", "system", "status"); !strings.Contains(r.Text(), "system 2 is staged, but the machine has started with system 1") {
		t.Errorf("the status after the fall-back: got %v, want %q", r, "system 2 is staged, but the machine has started with system 1")
	}
	if r := s.VM.Run("lull", "system", "commit"); r.Code == 0 {
		t.Errorf("a system that has not started is committed: %v", r)
	}
	s.Must("lull", "gc")
	s.resident("after a collection", "org.example.os", "org.example.os.base")
	s.Must("lull", "system", "rollback")
	s.is("a", "1", "idle", "")
	s.Must("lull", "gc")
	s.resident("after the rollback")

	// An update that works is committed by lull-system-commit.service.
	s.stage("3")
	s.restart()
	s.is("b", "3", "idle", "3")
	s.Must("lull", "gc")
	s.resident("of system 3", "org.example.os.base")

	// One that starts and does not work is rolled back by it.
	s.stage("4")
	s.restart("lull-system-commit.service")
	s.is("a", "4", "idle", "3")
	s.Must("lull", "gc")
	s.resident("while system 4 still runs", "org.example.os.base", "org.example.os.base")
	s.restart()
	s.is("b", "3", "idle", "3")
	s.Must("lull", "gc")
	s.resident("after system 4", "org.example.os.base")
	s.Poweroff()
}

// stage stages a version from its repository, which the slot may not know yet.
func (s slots) stage(version string) {
	s.Helper()
	s.Must("lull", "repo", "add", "v"+version, "/srv/v"+version)
	s.Must("lull", "system", "stage", "org.example.os", "--repository", "v"+version)
}

func (s slots) off() {
	s.Helper()
	s.Start("systemctl", "poweroff")
	must(s.T, s.WaitExit(limit))
}

// restart starts the machine again. The units fail, and no others.
func (s slots) restart(units ...string) {
	s.Helper()
	s.off()
	s.Boot()
	s.RunWithin(limit, "systemctl", "is-system-running", "--wait")
	failed := s.Must("systemctl", "list-units", "--failed", "--plain", "--no-legend").Stdout
	if strings.Count(failed, "\n") != len(units) || !strings.HasPrefix(failed, strings.Join(units, "")) {
		s.Fatalf("these units have failed: %s\n%v", failed, s.VM.Run("journalctl", "-b", "--no-pager", "-n", "60"))
	}
}

// is checks which slot and system run, and how far the update is.
func (s slots) is(slot, running, state, committed string) {
	s.Helper()
	if r := s.Must("cat", "/proc/cmdline", "/etc/image"); !strings.Contains(r.Stdout, "root=PARTLABEL=os-"+slot+" lull.system="+running+"\n"+running+"\n") {
		s.Fatalf("it is not slot %s: %v", slot, r)
	}
	var doc struct {
		State, Running string
		Committed      *struct{ Version string }
	}
	text := s.Must("lull", "--json", "system", "status").Stdout
	must(s.T, json.Unmarshal([]byte(text), &doc))
	have := ""
	if doc.Committed != nil {
		have = doc.Committed.Version
	}
	if doc.State != state || doc.Running != running || have != committed {
		s.Fatalf("want running %s, %s, committed %q: %s\n%v", running, state, committed, text, s.VM.Run("journalctl", "-b", "--no-pager", "-u", "lulld", "-u", "lull-system-commit"))
	}
}

// resident checks the names of the packages in the store.
func (s slots) resident(when string, want ...string) {
	s.Helper()
	text := s.Must("sh", "-c", "cd /var/lib/lull/packages && ls").Stdout
	if len(strings.Fields(text)) != len(want) {
		s.Errorf("%s, the store has %q; want %v", when, text, want)
	}
}
