package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	bus "github.com/lull/lull/dbus"
)

// An error is about the requested instances, and hides no success.
func TestRefreshErrorsBelongToWhatWasAskedFor(t *testing.T) {
	f := startAgent(t)
	for _, name := range []string{"good", "dead", "dead2"} {
		f.add(t, bus.PackageProperties{Instance: name, Version: "1"})
	}
	f.play(func(verb, name string) (dbus.ObjectPath, error) {
		if strings.HasPrefix(name, "dead") {
			return "", errkind.New(errkind.Unavailable, "cannot read repository \"gone\"")
		}
		return f.begin("1", bus.RefreshProperties{Kind: verb, Instance: name, State: "preparing", FromVersion: "1", ToVersion: "2"},
			func(p *bus.RefreshProperties) { p.State = "done" })
	})
	for _, args := range [][]string{{"refresh"}, {"refresh", "good", "dead", "dead2"}} {
		code, out, errs := f.lull(t.Context(), args...)
		if code != 69 || !strings.Contains(out, "good is refreshed from 1 to 2\n") || errs != "lull: cannot read repository \"gone\"\n" {
			t.Errorf("%q: got exit status %d, output %q and error output %q; want 69, \"good is refreshed from 1 to 2\\n\" and \"lull: cannot read repository \\\"gone\\\"\\n\"", args, code, out, errs)
		}
	}
	if code, out, errs := f.lull(t.Context(), "refresh", "good"); code != 0 || errs != "" || !strings.Contains(out, "good is refreshed from 1 to 2\n") {
		t.Errorf("refresh good: got exit status %d, output %q and error output %q; want 0, \"good is refreshed from 1 to 2\\n\" and none", code, out, errs)
	}
}

func TestRefreshSaysWhatIsLeftOut(t *testing.T) {
	f := startAgent(t)
	f.add(t, bus.PackageProperties{Instance: "a", Version: "1"})
	f.play(func(string, string) (dbus.ObjectPath, error) { return "", nil })
	f.withholds(bus.WithheldVersion{Instance: "a", Version: "2", Why: "reverted"}, bus.WithheldVersion{Instance: "b", Version: "3", Why: "rollout"})
	code, out, errs := f.lull(t.Context(), "refresh", "a")
	if code != 0 || errs != "" || out != "a 2 is left out: you went back from it; a later version is offered again\neverything else is up to date\n" {
		t.Errorf("refresh a: got exit status %d, output %q and error output %q; want 0, that a 2 is left out and the rest up to date, and none", code, out, errs)
	}
	if _, out, _ := f.lull(t.Context(), "refresh"); !strings.Contains(out, "b 3 is left out: it is being rolled out") {
		t.Errorf("refresh: got %q, want \"b 3 is left out: it is being rolled out\" in it", out)
	}
	if _, out, _ := f.lull(t.Context(), "refresh", "--now"); out != "everything is up to date\n" {
		t.Errorf("refresh --now: got %q, want \"everything is up to date\\n\"", out)
	}
}

// An install that is interrupted while the agent resolves the package continues, and the
// command reports that.
func TestInterruptedInstall(t *testing.T) {
	f := startAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	f.play(func(string, string) (dbus.ObjectPath, error) {
		cancel()
		<-release
		return "", errkind.New(errkind.Failed, "cannot x")
	})
	code, _, errs := f.lull(ctx, "install", "slow")
	close(release)
	if code != 1 || !strings.Contains(errs, "lull: cannot wait for the installation of slow: interrupted\nhint: it continues in the background") {
		t.Errorf("got %d %s, want code 1 and %q in the errs", code, errs, "lull: cannot wait for the installation of slow: interrupted\nhint: it continues in the background")
	}
}

// Each command reports immediately that the configuration is broken.
func TestBrokenConfigurationIsSaid(t *testing.T) {
	f := startAgent(t)
	f.add(t, notes())
	f.manager.Update(func(p *bus.ManagerProperties) {
		p.PolicyError = "/etc/lull/repos.d/a.yaml:2: cannot x"
		p.RepositoryStates = []bus.RepositoryStateOf{{Name: "a", Error: "/etc/lull/repos.d/a.yaml:2: cannot x", LeftOut: true},
			{Name: "b", URL: "https://b/", Checking: micro(monday), Error: "cannot y", Failed: micro(monday)}}
	})
	const said = "lull: not all of the configuration can be used: /etc/lull/repos.d/a.yaml:2: cannot x\nhint: "
	for _, args := range [][]string{{"list"}, {"repo", "list"}, {"pending"}} {
		code, out, errs := f.lull(t.Context(), args...)
		if code != 0 || strings.Count(errs, said) != 1 || strings.Contains(out, said) {
			t.Errorf("%q: got exit status %d, output\n%s\nand error output\n%s\nwant status 0 and %q once, in the error output only", args, code, out, errs, said)
		}
	}
	_, out, _ := f.lull(t.Context(), "repo", "list")
	for _, want := range []string{"left out: ", "checking since "} {
		if !strings.Contains(out, want) {
			t.Errorf("repo list: got\n%s\nwant %q in it", out, want)
		}
	}
	if _, out, errs := f.lull(t.Context(), "status"); errs != "" || !strings.Contains(strings.Join(strings.Fields(out), " "), "Policy: not all of it can be used: /etc/lull/repos.d/a.yaml:2: cannot x") {
		t.Errorf("status: %s%s; want no errs and %q", out, errs, "Policy: not all of it can be used: /etc/lull/repos.d/a.yaml:2: cannot x")
	}
}

func TestRepoVerbs(t *testing.T) {
	f := startAgent(t)
	p := notes()
	p.Repository = "main"
	f.add(t, p)
	f.repositories(map[string]string{"main": "https://x/"})
	f.manager.Update(func(p *bus.ManagerProperties) {
		p.RepositoryStates = []bus.RepositoryStateOf{{Name: "main", URL: "https://x/", Read: micro(monday)}}
	})
	code, out, errs := f.lull(t.Context(), "repo", "show", "main")
	if code != 0 || errs != "" || !strings.Contains(out, "org.example.notes") || !strings.Contains(out, "https://x/") {
		t.Errorf("repo show: got exit status %d, output %q and error output %q; want 0, org.example.notes and https://x/, and none", code, out, errs)
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs = f.lull(t.Context(), "repo", "set-url", "main", "https://ann@y/", "--password-file="+file)
	if code != 0 || strings.Contains(out+errs, "secret") || f.repositories(nil)["main"] != "https://ann:secret@y/" {
		t.Errorf("repo set-url: got exit status %d, address %q and\n%s%swant status 0, address \"https://ann:secret@y/\" and no \"secret\" in what is printed", code, f.repositories(nil)["main"], out, errs)
	}
	code, out, errs = f.lull(t.Context(), "repo", "remove", "main")
	if code != 0 || !strings.Contains(out, "org.example.notes came from it, and gets no updates") || len(f.repositories(nil)) != 0 {
		t.Errorf("repo remove: got exit status %d, repositories %v and\n%s%swant 0, none and the applications that came from it", code, f.repositories(nil), out, errs)
	}
	f.manager.Update(func(p *bus.ManagerProperties) { p.RepositoryStates = nil })
	if code, _, errs := f.lull(t.Context(), "repo", "show", "main"); code != 1 || !strings.Contains(errs, "from which org.example.notes came: it is not known any more") {
		t.Errorf("got %d %s, want code 1 and %q in the errs", code, errs, "from which org.example.notes came: it is not known any more")
	}
	f.manager.Update(func(p *bus.ManagerProperties) {
		p.RepositoryStates = []bus.RepositoryStateOf{{Name: "mine", URL: "https://x/"}}
	})
	if code, out, errs := f.lull(t.Context(), "repo", "remove", "mime"); code != 0 || out != "repository mime is not known; did you mean mine?\n" {
		t.Errorf("%d %s%s; want code 0 and output %q", code, out, errs, "repository mime is not known; did you mean mine?\n")
	}
	f.manager.Update(func(p *bus.ManagerProperties) { p.PolicyError = "" })
}

// TestFingerprint: what is trusted is shown, and other keys than the stated ones are refused
// before the agent is asked.
func TestFingerprint(t *testing.T) {
	f := startAgent(t)
	dir := filepath.Join(t.TempDir(), "repo")
	if err := publish.Init(t.Context(), dir, publish.InitOptions{Counts: map[string]publish.Count{"root": {Needed: 1, Of: 2}}}); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(dir + "/root.json")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := repo.Fingerprints(root)
	if err != nil || len(keys) != 2 {
		t.Fatalf("%v, %v, want two keys", keys, err)
	}
	both := strings.Join(keys, ",")
	for i, c := range []struct {
		stated string
		code   int
	}{{both, 0}, {strings.ToUpper(both), 0}, {keys[0], 65}, {keys[1], 65}, {strings.Repeat("0", 64), 65}, {"x", 65}} {
		name := fmt.Sprint("main", i)
		code, out, errs := f.lull(t.Context(), "repo", "add", name, "https://example.org/x", "--trust", dir+"/root.json", "--fingerprint", c.stated)
		if code != c.code || (code == 0) != strings.Contains(out, "keys of the root of trust (SHA-256): "+keys[0]+", "+keys[1]) {
			t.Errorf("%s is stated: %d\n%s%s\nwant %d, and both keys if it is known", c.stated, code, out, errs, c.code)
		}
		f.mu.Lock()
		_, known := f.repos[name]
		f.mu.Unlock()
		if known != (c.code == 0) {
			t.Errorf("%s is stated: got known to the agent %v, want %v", c.stated, known, c.code == 0)
		}
	}
	if code, _, errs := f.lull(t.Context(), "repo", "add", "--watch", dir, "ours", "--fingerprint", both); code != 64 {
		t.Errorf("--watch with a fingerprint: got exit status %d with %q, want 64", code, errs)
	}
}
