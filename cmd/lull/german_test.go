package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
)

// speaker runs the command as a process, with a language of its own.
type speaker struct {
	program, address, home string
}

func (s speaker) run(t *testing.T, language string, width int, line string) (out, errs string, code int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), s.program, append([]string{"--bus", s.address}, strings.Fields(line)...)...)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "LANG=" + language, "COLUMNS=" + strconv.Itoa(width), "TERM=dumb", "TZ=UTC"}
	if !strings.HasPrefix(line, "help") { // it would show the value
		c.Env = append(c.Env, "LULL_CONFIG="+s.home)
	}
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// germanAgent has applications in the states that the command line describes.
func germanAgent(t *testing.T) speaker {
	t.Helper()
	f := startAgent(t)
	hour := func(n int) uint64 { return micro(time.Now().Add(time.Duration(n) * time.Hour)) }
	f.add(t, notes())
	busy := notes()
	busy.Instance, busy.Name, busy.Running = "org.example.busy", "org.example.busy", true
	busy.Processes = []bus.Process{{PID: 123, UID: 64999, Command: "busy"}}
	busy.Refresh = bus.RefreshPath("7")
	f.add(t, busy)
	if _, err := f.begin("7", bus.RefreshProperties{ID: "7", Instance: "org.example.busy", Kind: "refresh", State: "waiting", FromVersion: "1.0", ToVersion: "2.0",
		Waiting: busy.Processes, Deadline: hour(30), Since: hour(-2)}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.begin("8", bus.RefreshProperties{ID: "8", Instance: "org.example.stuck", Kind: "refresh", State: output.Stuck, ErrorText: "x", FromVersion: "1.0", ToVersion: "2.0"}); err != nil {
		t.Fatal(err)
	}
	kept := notes()
	kept.Instance, kept.HeldUntil, kept.HeldBy = "org.example.kept", hour(50), "ada"
	kept.Holds = []bus.Hold{{UID: 1000, Owner: "ada", Since: hour(-1), Until: hour(50)}}
	f.add(t, kept)
	undone := notes()
	undone.Instance, undone.UndoneVersion, undone.UndoneAt, undone.NextTry = "org.example.undone", "3.0", hour(-5), hour(20)
	f.add(t, undone)
	f.pending = []bus.PendingRefresh{
		{ID: "7", Instance: "org.example.busy", FromVersion: "1.0", ToVersion: "2.0", Since: hour(-2), Deadline: hour(30), AtDeadline: "terminate", Processes: busy.Processes},
		{ID: "9", Instance: "org.example.kept", FromVersion: "1.0", ToVersion: "2.0", Since: hour(-2), Conditions: map[string]string{"mains": "", "idle": ""}},
	}
	f.ended = []bus.EndedRefresh{{ID: "5", Kind: "refresh", Instance: "org.example.notes", FromVersion: "0.9", ToVersion: "1.0", FromRevision: 1, ToRevision: 2, Result: "done",
		Began: hour(-3), Ended: hour(-2), Undo: "revert", Asked: true, UID: 0, User: "root"}}
	f.space.set([]bus.PackageUsage{{Hash: hashOf('a'), Name: "org.example.notes", Version: "1.0", Exclusive: 41_500_000, Shared: 2_000_000, KeptBy: "installed"},
		{Hash: hashOf('b'), Name: "org.example.old", Version: "0.1", Exclusive: 10_000_000}}, []bus.Finding{{What: hashOf('d'), Problem: "x"}})
	return speaker{program(t), f.address, t.TempDir()}
}

// mistakes are command lines that end in an error of the command line itself.
var mistakes = []string{"refresh org.example.busy", "nonsense", "refresh --nonsense", "hold", "hold 3d", "hold nothing", "hold --for x notes", "hold --until x notes", "status nothing",
	"gc --free x", "refresh --detach --wait", "refresh --cancel", "refresh --cancel notes", "system prepare-image --root /nonexistent", "completion x", "policy check /nonexistent",
	"repo add x y", "switch notes", "verify", "channel halt x", "publish x", "search nothing-at-all", "run --app x nothing", "open"}

// english matches words that German does not have.
var english = regexp.MustCompile(`(?i)\b(the|are|of|with|until|waits|held|running|installed|cannot|not|because|while|when|you|been|they|what|this|which|and|for|to|by)\b`)

// TestGerman: all texts for people are German, fit, and have the same exit status as in
// English; --json has the same document in all languages.
func TestGerman(t *testing.T) {
	require.NotShort(t) // hundreds of commands, each in a process of its own
	s := germanAgent(t)
	for _, line := range append(append([]string{}, reading...), mistakes...) {
		for _, width := range []int{60, 80} {
			out, errs, code := s.run(t, "de_DE.UTF-8", width, line)
			_, _, want := s.run(t, "C", width, line)
			if code != want {
				t.Errorf("lull %s: got exit status %d in German, want %d as in English", line, code, want)
			}
			text := out + errs
			if testing.Verbose() {
				t.Logf("$ COLUMNS=%d lull %s\n%s", width, line, text)
			}
			for l := range strings.Lines(text) {
				l = strings.TrimSuffix(l, "\n")
				shown := l
				for _, foreign := range foreignTexts {
					shown = strings.ReplaceAll(shown, foreign, "")
				}
				if word := english.FindString(commands.ReplaceAllString(shown, "")); word != "" {
					t.Errorf("lull %s: %q in %q; want no word", line, word, l)
				}
				longest := 0
				for _, word := range strings.Fields(l) {
					longest = max(longest, output.Columns(word))
				}
				if output.Columns(l) > max(width, longest+20) && !strings.HasPrefix(l, "  lull ") { // an example for copying
					t.Errorf("lull %s: got %q of %d columns; want at most %d, the width of the terminal", line, l, output.Columns(l), width)
				}
			}
		}
	}
	for _, line := range reading {
		line += " --json"
		if line == "version --json" || strings.HasPrefix(line, "help") {
			continue
		}
		a, _, _ := s.run(t, "C", 80, line)
		b, _, _ := s.run(t, "de_DE.UTF-8", 80, line)
		if a != b {
			t.Errorf("lull %s: got in German\n%s\nwant as in English\n%s", line, b, a)
		}
	}
	for _, language := range []string{"C", "C.UTF-8", "en_GB.UTF-8", "xx_XX.UTF-8"} {
		if out, _, _ := s.run(t, language, 80, "list"); !strings.Contains(out, "APPLICATION") {
			t.Errorf("%s: %s; want %q in the output", language, out, "APPLICATION")
		}
	}
	if _, errs, _ := s.run(t, "de_DE", 80, "hold 3d"); !strings.Contains(errs, "zurueckgehalten") {
		t.Errorf("in ASCII: got %q, want \"zurueckgehalten\" in it", errs)
	}
}

// commands matches examples for copying, and names of arguments from the usage.
var commands = regexp.MustCompile("`[^`]*`|lull [a-z]+( [-a-z]+)*|--[a-z-]+")

// foreignTexts are those of the agent, of packages and of libraries.
var foreignTexts = []string{"it does not", "by inotify", "add one with", "run of", "cannot read policy"}

// TestGermanHelp: the help of every command is German, with the names of its arguments, and
// no flag has the name of a Go type.
func TestGermanHelp(t *testing.T) {
	require.NotShort(t)
	s := speaker{program(t), "unix:path=/nonexistent", t.TempDir()}
	for _, name := range allCommands() {
		line := "help" + strings.TrimPrefix(name, "lull")
		text, errs, code := s.run(t, "de_DE.UTF-8", 80, line)
		if code != 0 || errs != "" || !strings.Contains(text, "Aufruf:") {
			t.Errorf("%s: status %d, %s%s; want code 0, no errs and %q in the text", line, code, errs, text, "Aufruf:")
		}
		for l := range strings.Lines(text) {
			shown := strings.ReplaceAll(commands.ReplaceAllString(l, ""), "signed-by", "")
			if word := english.FindString(shown) + untranslated.FindString(l); word != "" {
				t.Errorf("%s: %q in %q; want no word", line, word, l)
			}
		}
	}
}

// untranslated matches the names of types, and English names of arguments.
var untranslated = regexp.MustCompile(`\b(FILE|FOLDER|DIRECTORY|REPOSITORY|PACKAGE|COMMAND|ADDRESS|TIME|WORD|CHANNEL)\b|--[a-z-]+ (string|strings|stringArray|int|duration|uint32)\b`)
