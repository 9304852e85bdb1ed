package hostile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// smallDisk is a file system with so many bytes, for an agent's root. It is
// unmounted when the world on it has gone.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	require.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("lull-test", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// big publishes a package that compresses well and is large on disk.
func big(t *testing.T, w *rig.World, name string, bytes int) {
	t.Helper()
	dir := w.Path(name)
	f := forger{t, w.Repo}
	f.write(filepath.Join(dir, "lull.yaml"), []byte("name: "+name+"\nversion: \"1\"\nsummary: large\n"))
	for i := range 4 {
		f.write(filepath.Join(dir, fmt.Sprint("file", i)), []byte(strings.Repeat(fmt.Sprintf("%d: %s\n", i, name), bytes/4/(4+len(name)))))
	}
	w.MustLull("publish", "--repo", w.Repo, dir)
}

// TestFullDisk: what does not fit is refused before anything is fetched, with
// the figures; and a disk that fills up in the middle loses nothing.
func TestFullDisk(t *testing.T) {
	t.Run("admission", func(t *testing.T) {
		w, _ := world(t, rig.Options{Root: smallDisk(t, 16<<20)})
		big(t, w, "org.evil.large", 64<<20)
		before := snapshot(t, w)
		refused(t, w, before, w.Lull("install", "org.evil.large"), 73, "org.evil.large", "need", "free")
		w.MustLull("install", sample.Name)
	})
	t.Run("in the middle", func(t *testing.T) {
		root := smallDisk(t, 48<<20)
		w, _ := world(t, rig.Options{Root: root, Tags: "faultpoint"})
		w.MustLull("install", sample.Name)
		big(t, w, "org.evil.large", 24<<20)
		before := snapshot(t, w)
		// Another process fills the disk after admission: the write of one blob fails.
		agent := restart(t, w, "LULL_FAULT=store.write:enospc,store.write#2:enospc,store.write#3:enospc,store.write#4:enospc,"+
			"store.write#5:enospc,store.write#6:enospc,store.write#7:enospc,store.write#8:enospc,store.write#9:enospc,store.write#10:enospc")
		refused(t, w, before, w.Lull("install", "org.evil.large"), 73, "org.evil.large", "space")
		agent.Stop()
		w.StartAgent()
		if after := snapshot(t, w); after != before {
			t.Errorf("after a restart: got\n%s\nwant as before\n%s", after, before)
		}
		w.MustLull("install", "org.evil.large") // there is space now
	})
	t.Run("really full", func(t *testing.T) {
		root := smallDisk(t, 48<<20)
		w, _ := world(t, rig.Options{Root: root})
		w.MustLull("install", sample.Name)
		w.MustLull("remove", sample.Name)
		ballast := filepath.Join(root, "ballast")
		fill(t, ballast)
		before := snapshot(t, w)
		refused(t, w, before, w.Lull("install", sample.Name), 73, sample.Name)
		w.MustLull("gc") // must work without any space
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		w.MustLull("install", sample.Name)
	})
}

// fill writes until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 64<<10); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
}

// restart stops the world's agent and starts one with more environment.
func restart(t *testing.T, w *rig.World, env ...string) *rig.Proc {
	t.Helper()
	w.StopAgent()
	return w.StartAgent(env...)
}

// TestSecondAgent: one root, or one bus name, has one agent.
func TestSecondAgent(t *testing.T) {
	w, _ := world(t, rig.Options{})
	first := w.Agent()
	_, err := w.TryAgentWith([]string{"--run-dir=" + w.Path("other-run")})
	if err == nil {
		t.Fatal("a second agent serves the same root")
	}
	for _, want := range []string{"cannot", w.Store, fmt.Sprint(first.PID)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the second agent does not say %q: %v", want, err)
		}
	}
	if other := w.Path("other-root"); os.Mkdir(other, 0o755) == nil {
		if _, err := w.TryAgentWith([]string{"--root=" + other, "--run-dir=" + w.Path("third-run")}); err == nil {
			t.Error("a second agent has the same bus name")
		}
	}
	if first.Ended() {
		t.Error("the first agent has ended")
	}
	w.MustLull("install", sample.Name)
}

// TestArguments: invalid arguments of users and programs.
func TestArguments(t *testing.T) {
	w, _ := world(t, rig.Options{})
	w.MustLull("install", sample.Name)
	before := snapshot(t, w)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"install", "org.evil.unknown"}, 1, "org.evil.unknown"},
		{[]string{"install", "../../etc"}, 65, "../../etc"},
		{[]string{"install", "a/b"}, 65, "a/b"},
		{[]string{"install", ".."}, 65, ".."},
		{[]string{"install", ""}, 65, "name"},
		{[]string{"install", "Org.Big"}, 1, "Org.Big"},
		{[]string{"install", strings.Repeat("x", 64)}, 65, "xxxx"},
		{[]string{"install", "org.evil\n"}, 65, "org.evil"},
		{[]string{"install", "--channel", "../x", sample.Name}, 65, "../x"},
		{[]string{"install", "--key", "../x", sample.Name}, 65, "../x"},
		{[]string{"install", "--repository", "../x", sample.Name}, 65, "../x"},
		{[]string{"remove", "../" + sample.Name}, 65, "../" + sample.Name},
		{[]string{"refresh", "org.evil.unknown"}, 1, "org.evil.unknown"},
		{[]string{"revert", sample.Name}, 1, sample.Name},
		{[]string{"revert", "--revision", "77", sample.Name}, 1, "77"},
		{[]string{"hold", "..", "--for", "1d"}, 1, ".."},
		{[]string{"open", "../../../etc", "--", "true"}, 65, "../../../etc"},
		{[]string{"open", strings.Repeat("0", 64), "--", "true"}, 1, "0000"},
		{[]string{"why", "/etc/passwd"}, 65, "/etc/passwd"},
		{[]string{"why", "xyz"}, 1, "xyz"},
		{[]string{"run", "org.evil.unknown"}, 1, "org.evil.unknown"},
		{[]string{"run", "../../bin/sh"}, 65, "../../bin/sh"},
		{[]string{"repo", "add", "../x", w.Repo}, 65, "../x"},
		{[]string{"publish", "--repo", w.Repo, "/nonexistent"}, 65, "/nonexistent"},
		{[]string{"frobnicate"}, 64, "frobnicate"},
		{[]string{"install", "--frobnicate", "x"}, 64, "frobnicate"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			refused(t, w, before, w.Lull(c.args...), c.code, c.want)
		})
	}
	t.Run("no agent", func(t *testing.T) {
		w.StopAgent()
		if r := w.Lull("list"); r.Code != 69 || !strings.HasPrefix(r.Stderr, "lull: cannot ") {
			t.Errorf("without an agent: %v", r)
		}
	})
}

// TestBusArguments calls the bus directly, as no client of ours would, by an
// ordinary user and by root.
func TestBusArguments(t *testing.T) {
	w, _ := world(t, rig.Options{})
	require.Program(t, "busctl")
	before := snapshot(t, w)
	call := func(as *rig.Actor, args ...string) rig.Result {
		return as.Run("busctl", append([]string{"--address=" + w.Bus.Address, "call", rig.AgentName, rig.AgentPath}, args...)...)
	}
	manager := rig.AgentName + ".Manager"
	for _, c := range []struct {
		name string
		r    rig.Result
		want string
	}{
		{"a path as a name", call(w.Admin, manager, "Install", "sa{sv}", "../../x", "0"), "../../x"},
		{"an unknown option", call(w.Admin, manager, "Install", "sa{sv}", sample.Name, "1", "frobnicate", "b", "true"), "frobnicate"},
		{"an option of a wrong type", call(w.Admin, manager, "Install", "sa{sv}", sample.Name, "1", "channel", "u", "7"), "channel"},
		{"wrong arguments", call(w.Admin, manager, "Install", "u", "7"), ""},
		{"an ordinary user installs", call(w.User, manager, "Install", "sa{sv}", sample.Name, "0"), "permitted"},
		{"an ordinary user sets the retained index", call(w.User, rig.AgentName+".Retained", "Set", "as", "0"), "permitted"},
		{"an ordinary user collects", call(w.User, rig.AgentName+".Space", "Collect", "a{sv}", "0"), "permitted"},
		{"no hash", call(w.Admin, rig.AgentName+".Retained", "Set", "as", "1", "hello"), "hello"},
		{"a run of nothing", call(w.User, manager, "JoinRun", "sss", "../..", strings.Repeat("0", 64), ""), ""},
		{"a run of a package that is not there", call(w.User, manager, "JoinRun", "sss", sample.Name, strings.Repeat("0", 64), ""), ""},
		{"a service of a user's", call(w.User, manager, "JoinRun", "sss", sample.Name, strings.Repeat("0", 64), "sync"), ""},
		{"an answer to nothing", call(w.User, manager, "Answer", "ss", "r999", "restart-now"), "r999"},
		{"a root that is none", call(w.Admin, manager, "AddRepository", "ssay", "evil", "/tmp", "3", "1", "2", "3"), "evil"},
		{"an address that is none", call(w.Admin, manager, "AddRepository", "ssay", "evil", "javascript:alert(1)", "1", "1"), "evil"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.r.Code == 0 {
				t.Errorf("it was taken: got %v, want a failure", c.r)
			}
			if !strings.Contains(c.r.Stderr, c.want) || strings.TrimSpace(c.r.Stderr) == "" {
				t.Errorf("the error does not name %q: %v", c.want, c.r)
			}
		})
	}
	if after := snapshot(t, w); after != before {
		t.Errorf("something was left behind:\n%s\nbefore:\n%s", after, before)
	}
	w.MustLull("install", sample.Name)
}

// TestHostilePolicy: a broken policy names its file and line, changes nothing,
// and does not keep the agent from restarting with the former one.
func TestHostilePolicy(t *testing.T) {
	w, _ := world(t, rig.Options{})
	w.MustLull("install", sample.Name)
	bad := filepath.Join(w.Config, "policy.d", "bad.yaml")
	for name, text := range map[string]string{
		"unknown key":  "defaults:\n  keep-revisions: 2\n  keep-rivisions: 1\n",
		"wrong type":   "defaults:\n\n  keep-revisions: many\n",
		"terminate":    "defaults:\n  mode: wait\n  at-deadline: terminate\n",
		"not YAML":     "defaults: {\n\n\x01",
		"a bad name":   "packages:\n\n  ../../x: {mode: wait}\n",
		"deep nesting": "defaults:\n\n  mode: " + strings.Repeat("[", 2000) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			w.Configure("policy.d/bad.yaml", text)
			r := w.Lull("policy", "check")
			if r.Code != 78 || !strings.Contains(r.Stderr, bad+":") {
				t.Errorf("policy check: got %v, want exit status 78 and %q in the error output", r, bad+":")
			}
			if !strings.Contains(r.Stderr, bad+":3") {
				t.Errorf("it does not name line 3: %v", r)
			}
			reload := w.Admin.Run("busctl", "--address="+w.Bus.Address, "call", rig.AgentName, rig.AgentPath, rig.AgentName+".Manager", "Reload")
			if reload.Code == 0 || !strings.Contains(reload.Stderr, "bad.yaml") {
				t.Errorf("Reload: got %v, want a failure and %q in the error output", reload, "bad.yaml")
			}
			w.MustLull("list")
		})
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	w.MustLull("policy", "check")
}
