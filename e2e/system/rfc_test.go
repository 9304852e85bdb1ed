package system_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const edited = "org.test.edited"

// app runs until it is asked to end, and prints on SIGUSR1 the version of its
// visible files.
const app = `#!/bin/sh
trap 'cat "$LULL_PACKAGE_DIR/version" "$LULL_PACKAGE_DIR/late" > "$LULL_USER_COMMON/seen"' USR1
echo > "$LULL_USER_COMMON/ready"
while :; do sleep 0.1; done
`

func (s *scene) writeEdited(version string) string {
	s.Helper()
	return s.Publish(s.write(edited, version, 0.2, "apps: [{name: edited, command: bin/app}]\n",
		map[string]string{"bin/app": app, "late": "read late\n"}))
}

// indexed lists one index as the bus shows it.
func (s *scene) indexed(name string) []string {
	s.Helper()
	switch list := s.API.Property("", "Space."+name).(type) {
	case []string:
		return list
	case [][]any:
		var hashes []string
		for _, e := range list {
			hashes = append(hashes, fmt.Sprint(e[0]))
		}
		return hashes
	}
	return nil
}

func (s *scene) isIn(want bool, hash string, indices ...string) {
	s.Helper()
	for _, name := range indices {
		s.Until(fmt.Sprintf("%s has %.16s: %v", name, hash, want), limit, func() (bool, string) {
			list := s.indexed(name)
			return slices.Contains(list, hash) == want, fmt.Sprint(list)
		})
	}
}

// TestFiveSteps is the scenario for whose sake RFC-0217 turned its last alternative
// down: a test package becomes retained, is run, leaves retained; then the
// collector comes. Had what is retained not been counted as open, it would be gone.
func TestFiveSteps(t *testing.T) {
	require.Program(t, "dbus-daemon", "setpriv")
	t.Run("lease", func(t *testing.T) {
		s := set(t, 0, rig.Options{})
		test := s.writeEdited("1") // 1: a developer edits a test
		s.StartAgent()
		s.MustLull("repo", "add", "local", s.Repo)

		with := s.update(update{version: "1", imagesMB: 0.1, more: []string{test}})
		s.MustLull("system", "stage", osName) // 2: an update is staged that has the test
		s.has(true, test)
		s.isIn(true, test, "Retained")
		s.isIn(false, test, "Open")

		holder := s.User.StartLull(nil, "open", test, "--", "sleep", "infinity") // 3: the test is opened
		s.isIn(true, test, "Open", "Retained")

		s.fourAndFive(with, test)
		s.end(holder)
		s.isIn(false, test, "Open")
		s.MustLull("gc")
		s.has(false, test)
	})
	t.Run("run", func(t *testing.T) {
		s := set(t, 0, rig.Options{})
		test := s.writeEdited("1")
		s.Configure("policy.d/beside.yaml", "defaults: {keep-revisions: 1, mode: side-by-side}\n")
		s.StartAgent()
		s.MustLull("repo", "add", "local", s.Repo)
		s.MustLull("install", edited)

		with := s.update(update{version: "1", imagesMB: 0.1, more: []string{test}})
		s.MustLull("system", "stage", osName)
		s.isIn(true, test, "Retained", "Installed")

		run := s.User.StartLull(nil, "run", edited)
		common := filepath.Join(s.User.Home, ".local/share/lull", edited, "common")
		s.UntilFile("it runs", limit, filepath.Join(common, "ready"), func(text string) (bool, string) { return text != "", run.Log() })
		s.writeEdited("2")
		s.MustLull("refresh", edited)
		s.isIn(false, test, "Installed") // it is a test again, needed only by its run
		s.isIn(true, test, "Open", "Retained")

		s.fourAndFive(with, test)
		run.Signal(syscall.SIGUSR1)
		s.UntilFile("it sees its files", limit, filepath.Join(common, "seen"), func(text string) (bool, string) { return text == "1\nread late\n", text + run.Log() })
		s.end(run)
		s.Until("nothing keeps it", limit, func() (bool, string) {
			s.MustLull("gc") // while a child of the application lives, it stays
			return !s.resident(test), fmt.Sprint(s.indexed("Open"))
		})
	})
}

// fourAndFive stages an update without the test, and collects.
func (s *scene) fourAndFive(with *update, test string) {
	s.Helper()
	s.update(update{version: "2", imagesMB: 0.1})
	s.MustLull("system", "stage", osName)
	s.isIn(false, test, "Retained")
	s.MustLull("gc")
	s.has(false, with.base...) // what is not in use has gone
	s.has(true, test)
	for _, file := range []string{"content", "late", "bin/app", "version"} {
		if r := s.Admin.Run("test", "-s", filepath.Join(s.Store, "packages", test, file)); r.Code != 0 {
			s.Errorf("%s of the package in use is gone", file)
		}
	}
	out := s.MustLull("why", test).Stdout
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "open") {
			s.Errorf("it is kept by more than its use: want lines that begin with open, got\n%s", out)
		}
	}
	if !strings.Contains(out, "PID ") {
		s.Errorf("who uses it is not named:\n%s", out)
	}
}

func (s *scene) end(p *rig.Proc) {
	s.Helper()
	p.Signal(syscall.SIGTERM)
	if _, err := p.Wait(s.Context(), limit); err != nil {
		s.Fatalf("%v", err)
	}
}
