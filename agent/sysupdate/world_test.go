package sysupdate

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/services"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/gc"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/agent/store/resolve"
	"github.com/lull/lull/agent/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a root with a System on it, which can be restarted, in the same
// boot or another.
type machine struct {
	*System
	t       testing.TB
	repo    *storetest.Repo
	root    string
	boot    string
	files   string // of the machine: proc, etc
	ix      *index.Indices
	store   *store.Store
	state   *state.DB
	from    []string // the repositories that were asked for
	factory []digest.Digest
	settled error // how the last start went, if suffers
	suffers bool
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, repo: storetest.New(), root: filepath.Join(dir, "root"), boot: filepath.Join(dir, "boot-id"), files: filepath.Join(dir, "machine")}
	m.no(os.Mkdir(m.root, 0o755))
	m.no(os.WriteFile(m.boot, []byte("first\n"), 0o644))
	m.start()
	t.Cleanup(m.stop)
	return m
}

func (m *machine) no(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// start is the agent's start.
func (m *machine) start() {
	m.t.Helper()
	var err error
	m.store, err = store.Open(m.root)
	m.no(err)
	m.state, err = state.Open(filepath.Join(m.root, "state.db"))
	m.no(err)
	m.ix = index.New()
	res := resolve.New(m.store, m.ix)
	m.System, err = Load(World{
		Root: m.root, BootID: m.boot, Machine: m.files, State: m.state, Store: m.store, Indices: m.ix, Resolver: res, RunHook: runHook,
		Repository: func(name string) (resolve.Source, error) {
			if name != "local" && name != "mirror" {
				return nil, errkind.New(errkind.NotFound, "cannot find repository %q", name)
			}
			m.from = append(m.from, name)
			return m.repo, nil
		},
		Collect:   func(ctx context.Context) error { _, err := m.collect(ctx); return err },
		HookLimit: func(string) time.Duration { return time.Minute },
		Changed:   func() {}, Log: slog.New(slog.DiscardHandler),
	})
	m.no(err)
	m.no(m.SetFactory(m.factory, nil))
	if m.settled = m.Reconcile(); !m.suffers {
		m.no(m.settled)
	}
}

func (m *machine) collect(ctx context.Context) (gc.Result, error) {
	if err := m.MayCollect(); err != nil {
		return gc.Result{}, err
	}
	return gc.Collect(ctx, m.store, m.ix, gc.Options{})
}

// runHook runs the program, in no group of its own.
func runHook(ctx context.Context, h services.Hook) (string, error) {
	cmd := exec.CommandContext(ctx, h.Argv[0], h.Argv[1:]...)
	cmd.Env = h.Env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) stop() {
	if m.System != nil {
		m.System.Close()
		m.no(m.state.Close())
		m.System = nil
	}
}

func (m *machine) restart() { m.t.Helper(); m.stop(); m.start() }

// cmdline sets the kernel's command line of the next boot.
func (m *machine) cmdline(text string) { m.write("proc/cmdline", text) }

func (m *machine) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.files, path)
	m.no(os.MkdirAll(filepath.Dir(path), 0o755))
	m.no(os.WriteFile(path, []byte(text), 0o644))
}

// reboot starts the agent in another boot.
func (m *machine) reboot() {
	m.t.Helper()
	m.stop()
	old, err := os.ReadFile(m.boot)
	m.no(err)
	m.no(os.WriteFile(m.boot, append([]byte("after "), old...), 0o644))
	m.start()
}

// pkg publishes a package with a file of its own.
func (m *machine) pkg(name, version string, hooks map[string]string) digest.Digest {
	m.t.Helper()
	return m.pkgOf(name, version, hooks, nil)
}

// pkgWith publishes a package with further files.
func (m *machine) pkgWith(name, version string, files map[string]string) digest.Digest {
	m.t.Helper()
	return m.pkgOf(name, version, nil, files)
}

func (m *machine) pkgOf(name, version string, hooks, files map[string]string) digest.Digest {
	m.t.Helper()
	spec := storetest.Spec{Name: name, Version: version, Files: map[string]string{"content": strings.Repeat(name+" "+version+"\n", 100)}}
	maps.Copy(spec.Files, files)
	for hook, script := range hooks {
		spec.Files["hooks/"+hook+"*"] = "#!/bin/sh\n" + script
	}
	mt := m.repo.Meta(spec)
	for hook := range hooks {
		if mt.Hooks == nil {
			mt.Hooks = map[string][]string{}
		}
		mt.Hooks[hook] = []string{"hooks/" + hook}
	}
	b, err := mt.Encode()
	m.no(err)
	return m.repo.Add(b)
}

// spec describes an update.
type spec struct {
	version             string
	images, base, cache []digest.Digest
	hooks               map[string]string
	text                string // system.json, if it is not made of the others
}

func (m *machine) update(s spec) Update {
	m.t.Helper()
	if s.text == "" {
		b, err := json.Marshal(map[string]any{"version": s.version, "images": notNil(s.images), "base": notNil(s.base), "cache": notNil(s.cache)})
		m.no(err)
		s.text = string(b)
	}
	files := map[string]string{"system.json": s.text}
	for hook, script := range s.hooks {
		files["hooks/"+hook+"*"] = "#!/bin/sh\n" + script
	}
	mt := m.repo.Meta(storetest.Spec{Name: "org.test.system", Version: "1", Files: files})
	for hook := range s.hooks {
		if mt.Hooks == nil {
			mt.Hooks = map[string][]string{}
		}
		mt.Hooks[hook] = []string{"hooks/" + hook}
	}
	b, err := mt.Encode()
	m.no(err)
	return Update{Package: m.repo.Add(b), Repository: "local", Asked: "org.test.system"}
}

func notNil(list []digest.Digest) []digest.Digest {
	if list == nil {
		return []digest.Digest{}
	}
	return list
}

// stage stages and waits for the end.
func (m *machine) stage(u Update) error {
	if err := m.Stage(u); err != nil {
		return err
	}
	return wait(m.System)
}

// wait waits for the end of what is being staged.
func wait(s *System) error {
	s.mu.Lock()
	r := s.run
	s.mu.Unlock()
	if r != nil {
		<-r.ended
	}
	return s.Status().Err
}

// is checks how things stand: what is in effect is what the link leads to, and is whole.
func (m *machine) is(state, committed, booted string) {
	m.t.Helper()
	st := m.Status()
	version := func(s *Set) string {
		if s == nil {
			return ""
		}
		return s.Version
	}
	if st.State != state || version(st.Committed) != committed || version(st.Booted) != booted {
		m.t.Errorf("it is %s, committed %q, booted %q; want %s, %q, %q (%v)", st.State, version(st.Committed), version(st.Booted), state, committed, booted, st.Err)
	}
	set := st.Committed
	if st.Booted != nil {
		set = st.Booted
	}
	link, err := os.Readlink(filepath.Join(m.root, "system"))
	if set == nil {
		if !errors.Is(err, os.ErrNotExist) {
			m.t.Errorf("got a link to %q (%v), want none", link, err)
		}
		return
	}
	if link != "systems/"+set.Update.String() {
		m.t.Errorf("the link leads to %q; want link %q", link, "systems/"+set.Update.String())
	}
	for part, list := range map[string][]digest.Digest{"base": set.Base, "cache": set.Cache} {
		names, err := os.ReadDir(filepath.Join(m.root, "system", part))
		if err != nil || len(names) != len(list) {
			m.t.Errorf("%s has %v (%v), want %d packages", part, names, err, len(list))
		}
		for _, n := range names {
			target, err := filepath.EvalSymlinks(filepath.Join(m.root, "system", part, n.Name()))
			if err == nil {
				_, err = os.Stat(filepath.Join(target, "content"))
			}
			if d, perr := digest.Parse(filepath.Base(target)); err != nil || perr != nil || !slices.Contains(list, d) {
				m.t.Errorf("%s/%s: got target %q (%v), want a package of %v", part, n.Name(), target, errors.Join(err, perr), list)
			}
		}
	}
}

// has checks which packages are resident.
func (m *machine) has(want bool, list ...digest.Digest) {
	m.t.Helper()
	for _, d := range list {
		if m.store.HasPackage(d) != want {
			mt, _ := m.store.Launch(d)
			m.t.Errorf("package %s (%v) is resident: %v", d.Short(), mt, !want)
		}
	}
}

func (m *machine) roots(name string) (list []digest.Digest) {
	for _, r := range m.ix.Of(name) {
		list = append(list, r.Package)
	}
	return sorted(list)
}

// refused checks kind and text of an error.
func refused(t interface {
	Helper()
	Errorf(string, ...any)
}, err error, kind errkind.Kind, text string) {
	t.Helper()
	if err == nil || errkind.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("got %q (%s), want %q (%s)", err, errkind.KindOf(err), text, kind)
	}
	if errkind.HintOf(err) == "" {
		t.Errorf("got %q without a hint, want one", err)
	}
}
