package lease_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	limit = 60 * time.Second
	many  = 5000
)

// set makes a world with a package with two levels of subpackages installed.
func set(t *testing.T) *rig.Scene {
	t.Helper()
	return setWith(t, rig.Options{Tracker: "poll"})
}

func setWith(t *testing.T, o rig.Options) *rig.Scene {
	t.Helper()
	require.Cgroups(t)
	require.Program(t, "dbus-daemon", "setpriv")
	w := rig.NewScene(t, rig.SceneOptions{Options: o})
	inner := publish(w, "org.lull.inner", "")
	middle := publish(w, "org.lull.middle", "subpackages:\n  inner: "+inner+"\n")
	publish(w, "org.lull.outer", "subpackages:\n  middle: "+middle+"\n")
	w.Begin()
	w.MustLull("install", "org.lull.outer")
	return w
}

// publish returns the hash.
func publish(w *rig.Scene, name, more string) string {
	w.Helper()
	return w.Publish(w.Tree(name, map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: \"1\"\nsummary: Held\napps:\n  - {name: app, command: [bin/app]}\n%s", name, more),
		"bin/app":   "#!/bin/sh\necho " + name + "; cat\n",
	}))
}

// open counts what is open, and names one.
func open(w *rig.Scene) (n int, last string) {
	w.Helper()
	var v struct {
		Indices map[string][]struct{ Package, Holder string }
	}
	if err := json.Unmarshal([]byte(w.MustLull("inspect", "--json").Stdout), &v); err != nil {
		w.Fatalf("%v", err)
	}
	for _, o := range v.Indices["open"] {
		last = o.Package + " " + o.Holder
	}
	return len(v.Indices["open"]), last
}

// TestThousands: a client holds 5,000 leases, and all end with it.
func TestThousands(t *testing.T) {
	w := set(t)
	c := client(t, w, many)
	if n, last := open(w); n != many || !strings.Contains(last, fmt.Sprintf("client %s, user root", filepath.Base(c.Path))) {
		t.Errorf("%d are open, the last is %s; want %v and %q in the last", n, last, many, fmt.Sprintf("client %s, user root", filepath.Base(c.Path)))
	}
	w.MustLull("remove", "org.lull.outer")
	w.MustLull("gc")
	if trees, _ := filepath.Glob(filepath.Join(w.Store, "packages", "*")); len(trees) != 3 {
		t.Errorf("left are %q", trees)
	}
	began := time.Now()
	c.Process.Kill()
	c.Wait()
	w.Until("all leases have ended", limit, func() (bool, string) { n, _ := open(w); return n == 0, fmt.Sprint(n) })
	t.Logf("they ended within %v", time.Since(began))
	w.MustLull("gc")
	if trees, _ := filepath.Glob(filepath.Join(w.Store, "packages", "*")); len(trees) != 0 {
		t.Errorf("left are %q", trees)
	}
}

// TestWaitClosed waits for a client, and for an application.
func TestWaitClosed(t *testing.T) {
	w := set(t)
	w.MustLull("open", "--wait-closed", "org.lull.outer") // no client has it open
	input, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	holder := w.Admin.StartLull(func(c *exec.Cmd) { c.Stdin = input }, "open", "org.lull.outer")
	input.Close()
	w.Until("it is open", limit, func() (bool, string) { n, last := open(w); return n == 1, last })
	waiter := w.Admin.StartLull(nil, "open", "--wait-closed", "org.lull.outer")
	if waiter.Ended() {
		t.Fatalf("it does not wait: %s", waiter.Log())
	}
	end.Close()
	for _, p := range []*rig.Proc{holder, waiter} {
		if code, err := p.Wait(t.Context(), limit); err != nil || code != 0 {
			t.Errorf("%d, want 0, %v: %s", code, err, p.Log())
		}
	}
	if r := w.Lull("open", "--wait-closed", "org.lull.none"); r.Code != 1 || !strings.Contains(r.Stderr, "cannot find org.lull.none: it is not installed") {
		t.Errorf("got %v, want exit status 1 and %q in the error output", r, "cannot find org.lull.none: it is not installed")
	}
	waiter = w.Admin.StartLull(nil, "open", "--wait-closed", strings.Repeat("0", 64))
	if code, err := waiter.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("%d, want 0, %v: %s", code, err, waiter.Log())
	}
}

// TestSubpackages opens by name what an installed package contains.
func TestSubpackages(t *testing.T) {
	w := set(t)
	for path, want := range map[string]string{
		"org.lull.outer": "org.lull.outer", "org.lull.outer/middle": "org.lull.middle", "org.lull.outer/middle/inner": "org.lull.inner",
	} {
		if r := w.MustLull("open", path, "--", "cat", "bin/app"); !strings.Contains(r.Stdout, "echo "+want+";") {
			t.Errorf("%s: %v; want %q in the output", path, r, "echo "+want+";")
		}
	}
	for path, want := range map[string]string{
		"org.lull.outer/none":        `cannot open "org.lull.outer/none": org.lull.outer has no subpackage "none"` + "\nhint: it has middle\n",
		"org.lull.outer/":            `cannot open "org.lull.outer/": org.lull.outer has no subpackage ""`,
		"/etc":                       "neither a package hash nor an instance",
		"org.lull.outer/../outer":    `org.lull.outer has no subpackage ".."`,
		"org.lull.outer/middle/none": `org.lull.middle has no subpackage "none"`,
		"org.lull.outer" + strings.Repeat("/", 10_000):  `org.lull.outer has no subpackage ""`,
		"org.lull.outer" + strings.Repeat("/", 100_000): "cannot take the call: it is longer than 64 KiB",
	} {
		if r := w.Lull("open", path, "--", "true"); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %v\nwant %s", path, r, want)
		}
	}
	if n, last := open(w); n != 0 {
		t.Errorf("%d are open, %s; want 0", n, last)
	}
	// An open subpackage does not protect what contains it; that protects it.
	input, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	w.Admin.StartLull(func(c *exec.Cmd) { c.Stdin = input }, "open", "org.lull.outer/middle")
	input.Close()
	w.Until("it is open", limit, func() (bool, string) { n, last := open(w); return n == 1, last })
	w.MustLull("remove", "org.lull.outer")
	w.MustLull("gc")
	if trees, _ := filepath.Glob(filepath.Join(w.Store, "packages", "*")); len(trees) != 2 {
		t.Errorf("left are %q", trees)
	}
}
