package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// english matches words that German does not have.
var english = regexp.MustCompile(`(?i)\b(the|are|of|with|until|waits|held|running|installed|cannot|could|not|because|while|when|been|they|what|this|which|and|for|by|there|it|is|as|no)\b`)

// TestGerman: what the agent reports is German in the output of a German command, and English
// on the bus. The command asks the agent how its texts were made.
func TestGerman(t *testing.T) {
	const name, sick = "org.lull.app", "org.lull.sick"
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": forever})
	s.publish(app(sick, "1", service), map[string]string{"app": forever, "daemon": logging("1")})
	s.Begin("LULL_FAULT=refresh.health.before#3:error,refresh.link.undo.before#*:error")
	german := func(args ...string) rig.Result {
		t.Helper()
		return s.Admin.Run("env", append([]string{"LANG=de_DE.UTF-8", "COLUMNS=400", filepath.Join(s.Bin, "lull")}, args...)...)
	}
	s.MustLull("install", name, sick)
	s.publish(app(sick, "2", service), map[string]string{"app": forever, "daemon": logging("2")})
	s.Lull("refresh", sick)
	s.UntilState(sick, "2", "stuck")
	if err := os.WriteFile(filepath.Join(s.Config, "policy.d", "90-broken.yaml"), []byte("nonsense: {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := s.User.StartLull(nil, "run", name)
	s.Until(name+" runs", limit, func() (bool, string) {
		p, _ := s.API.Package(name)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	faults := []string{"apps: [{name: app}]", "hooks: {nothing: [app]}", "apps: [{name: app, command: [../app]}]", "services: [{name: daemon, scope: all, command: [app]}]"}
	for i, fault := range faults {
		bad := s.Path("bad", strconv.Itoa(i))
		if err := errors.Join(os.MkdirAll(bad, 0o755), os.WriteFile(filepath.Join(bad, "lull.yaml"), []byte("name: org.lull.bad\nversion: \"1\"\n"+fault+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		faults[i] = "publish --repo " + s.Repo + " " + bad
	}
	blobs, err := filepath.Glob(filepath.Join(s.Store, "blobs", "*", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	if err := os.Chmod(blobs[0], 0o600); err != nil { // a finding of verify
		t.Fatal(err)
	}
	for _, line := range append(faults,
		"install "+name, "install --channel edge "+name, "install nothing", "install --repository nowhere x", "remove nothing", "remove "+sick, "revert "+name, "revert --revision 9 "+name,
		"refresh nothing", "refresh --retry "+name, "refresh --now "+name, "hold --for 9999w "+name, "unhold "+name, "why 17f9", "why /etc/passwd", "why nothing", "open nothing",
		"switch --channel edge "+name, "switch --repository nowhere "+name, "repo remove nowhere", "repo add local "+s.Repo, "repo set-url nowhere /tmp", "status "+sick, "status", "pending", "history", "list",
		"system commit", "system rollback", "system stage nothing", "gc --retain-nothing", "doctor", "policy check", "policy reload", "du", "verify",
		"publish --repo "+s.Repo+" /nowhere", "channel halt --repo "+s.Repo+" nothing", "repo init "+s.Repo, "repo check /nowhere",
		"repo remove local", "status", "refresh", "refresh --list", "install nothing",
	) {
		r := german(strings.Fields(line)...)
		text := r.Stdout + r.Stderr
		t.Logf("$ lull %s\n%s", line, text)
		for l := range strings.Lines(text) {
			if word := english.FindString(foreign.ReplaceAllString(l, "")); word != "" {
				t.Errorf("lull %s: %q in %q; want no word", line, word, l)
			}
		}
	}
	if r := s.Lull("revert", name); !strings.Contains(r.Stderr, "lull: cannot revert "+name+": no earlier revision is kept") {
		t.Errorf("in English: got %v, want %q in the error output", r, "lull: cannot revert "+name+": no earlier revision is kept")
	}
}

// foreign matches what is not translated: examples for copying, and the faults of this test.
var foreign = regexp.MustCompile("`[^`]*`|lull [a-z]+( [-a-z]+)*|--[a-z-]+|fault point [^ ]*|not found")
