package sysupdate

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// slots is a machine with two slots, which runs the hooks of docs/system.md. The test is its
// boot loader.
type slots struct {
	*machine
	boot, parts string // directories
	hooks       map[string]string
}

// exampleHooks reads the scripts of docs/system.md.
func exampleHooks(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/system.md")
	if err != nil {
		t.Fatal(err)
	}
	hooks := map[string]string{}
	for _, block := range strings.Split(string(text), "    #!/bin/sh\n")[1:] {
		block, _, _ = strings.Cut(block, "\n\n")
		script := regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, "")
		name := regexp.MustCompile(`^# hooks/([a-z]+):`).FindStringSubmatch(script)
		if name == nil {
			t.Fatalf("no name in\n%s", script)
		}
		hooks[name[1]] = script + "\n"
	}
	return hooks
}

func newSlots(t *testing.T) *slots {
	m := newMachine(t)
	m.suffers = true
	s := &slots{machine: m, boot: filepath.Join(m.files, "boot"), parts: filepath.Join(m.files, "parts"), hooks: map[string]string{}}
	for hook, script := range exampleHooks(t) {
		if hook == "install" {
			hook = "pre-refresh"
		}
		s.hooks[hook] = strings.NewReplacer("/proc/cmdline", m.files+"/proc/cmdline", "/dev/disk/by-partlabel", s.parts, "/boot/", s.boot+"/").Replace(script)
	}
	if len(s.hooks) != 4 {
		t.Fatalf("the page has %d hooks, want 4", len(s.hooks))
	}
	m.write("boot/default", "a\n")
	m.write("boot/os-a.conf", "root=PARTLABEL=os-a lull.system=1\n")
	m.write("parts/os-a", "the image 1")
	m.write("parts/os-b", strings.Repeat("old", 100))
	s.start("")
	return s
}

// start switches the machine on. The boot loader takes the slot for the next start alone, and
// if the image in it is broken, the default one.
func (s *slots) start(broken string) {
	s.t.Helper()
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	slot := read(filepath.Join(s.boot, "next"))
	os.Remove(filepath.Join(s.boot, "next"))
	if slot == "" || broken != "" && strings.HasPrefix(read(filepath.Join(s.parts, "os-"+slot)), broken) {
		slot = read(filepath.Join(s.boot, "default"))
	}
	s.cmdline(read(filepath.Join(s.boot, "os-"+slot+".conf")))
	s.reboot()
}

// update publishes a version; a package in base is its health.
func (s *slots) version(v, health string) (update Update, base, image digest.Digest) {
	image = s.pkgWith("image", v, map[string]string{"root.img": "the image " + v})
	base = s.pkg("base", v, map[string]string{"health": health + "\n"})
	return s.update(spec{version: v, images: []digest.Digest{image}, base: []digest.Digest{base}, hooks: s.hooks}), base, image
}

// TestExample is the life of docs/system.md.
func TestExample(t *testing.T) {
	s := newSlots(t)
	if got := s.Status().Running; got != "1" {
		t.Fatalf("it runs %q, want 1", got)
	}
	// A slot that does not start.
	two, base2, image2 := s.version("2", "true")
	s.no(s.stage(two))
	if got, _ := os.ReadFile(filepath.Join(s.parts, "os-b")); !strings.HasPrefix(string(got), "the image 2") {
		t.Errorf("slot b: got %.40q, want it to begin with \"the image 2\"", got)
	}
	s.start("the image 2")
	refused(t, s.settled, errkind.Failed, "system 2 is staged, but the machine has started with system 1")
	s.is(Staged, "", "")
	s.collectAll()
	s.has(true, base2)
	s.no(s.Rollback())
	s.is(Idle, "", "")
	s.collectAll()
	s.has(false, base2, image2, two.Package)
	s.start("")
	s.is(Idle, "", "")

	// An update that works.
	three, base3, image3 := s.version("3", "true")
	s.no(s.stage(three))
	s.start("")
	s.is(Booted, "", "3")
	if got := s.Status().Running; got != "3" {
		t.Errorf("it runs %q, want 3", got)
	}
	s.no(s.Commit(t.Context()))
	s.is(Idle, "3", "")
	s.collectAll()
	s.has(true, base3)
	s.has(false, image3, three.Package)
	s.start("")
	if got := s.Status().Running; got != "3" {
		t.Errorf("it runs %q, want 3", got)
	}

	// A system that starts and does not work.
	four, base4, _ := s.version("4", "false")
	s.no(s.stage(four))
	s.start("")
	s.is(Booted, "3", "4")
	if got, _ := os.ReadFile(filepath.Join(s.parts, "os-a")); !strings.HasPrefix(string(got), "the image 4") {
		t.Errorf("slot a: got %.40q, want it to begin with \"the image 4\"", got)
	}
	refused(t, s.Commit(t.Context()), errkind.Failed, "it is rolled back to system 3")
	s.is(Idle, "3", "")
	s.collectAll()
	s.has(true, base3, base4)
	s.start("")
	if got := s.Status().Running; got != "3" {
		t.Errorf("it runs %q, want 3", got)
	}
	s.collectAll()
	s.has(true, base3)
	s.has(false, base4, four.Package)
	if left, err := os.ReadDir(filepath.Join(s.root, "packages")); err != nil || len(left) != 1 {
		t.Errorf("packages: got %v (%v), want one", left, err)
	}
}
