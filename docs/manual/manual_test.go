package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/policy"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

// TestPages makes all pages. Formatters find nothing to complain of, each command has
// one, and each option of each program is in its page.
func TestPages(t *testing.T) {
	require.NotShort(t)
	require.Program(t, "mandoc", "groff", "make", "cc")
	bin, to := rig.Binaries(t, ""), t.TempDir()
	if err := run("../..", bin, to); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(to + "/*")
	if err != nil || len(pages) < 40 {
		t.Fatalf("got %d pages (%v), want at least 40: %v", len(pages), err, pages)
	}
	for _, argv := range [][]string{{"mandoc", "-T", "lint", "-W", "warning"}, {"groff", "-m", "an", "-w", "w", "-z", "-T", "utf8"}} {
		out, err := exec.Command(argv[0], append(argv[1:], pages...)...).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: got %v and\n%s\nwant no error and no complaint", argv[0], err, out)
		}
	}

	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(to, name))
		if err != nil {
			t.Error(err)
		}
		return strings.ReplaceAll(string(b), `\-`, "-")
	}
	var tree struct{ Command command }
	out, err := exec.Command(bin+"/lull", "commands", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &tree)
	}
	if err != nil {
		t.Fatal(err)
	}
	var each func(command)
	each = func(c command) {
		text := read(pageOf(c.Name) + ".1")
		for _, f := range c.Flags {
			if !strings.Contains(text, "--"+f.Name) {
				t.Errorf("the page of %s does not tell of --%s", c.Name, f.Name)
			}
		}
		for _, sub := range c.Commands {
			each(sub)
		}
	}
	each(tree.Command)

	// Of these the pages are written by hand.
	option := regexp.MustCompile(`(?m)(?:^ +|, |\[| \| |lull-run |HASH )(--?[a-z][a-z-]+)`)
	for name, page := range map[string]string{"lulld": "lulld.8", "lull-userd": "lull-userd.8", "lull-run": "lull-run.8"} {
		help, err := exec.Command(filepath.Join(bin, name), "--help").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text := read(page)
		options := func(s string) (names []string) {
			for _, m := range option.FindAllStringSubmatch(s, -1) {
				names = append(names, strings.TrimLeft(m[1], "-"))
			}
			return names
		}
		known := options(string(help))
		if len(known) == 0 {
			t.Errorf("%s: got no options in its help, want some: %s", name, help)
		}
		for _, o := range known {
			if !regexp.MustCompile(`-` + o + `\b`).MatchString(text) {
				t.Errorf("%s does not tell of --%s", page, o)
			}
		}
		tags := regexp.MustCompile(`(?m)^\.TP\n(.*)$`)
		for _, tag := range tags.FindAllStringSubmatch(text, -1) {
			for _, o := range regexp.MustCompile(`\\fB--?([a-z-]+)\\fR`).FindAllStringSubmatch(tag[1], -1) {
				if !slices.Contains(known, o[1]) {
					t.Errorf("%s tells of --%s, which %s does not know", page, o[1], name)
				}
			}
		}
	}
}

// TestCommandsInTexts: what the texts tell to type exists, with the options they name.
func TestCommandsInTexts(t *testing.T) {
	require.NotShort(t)
	require.Program(t, "make", "cc")
	out, err := exec.Command(rig.Binaries(t, "")+"/lull", "commands", "--json").Output()
	var tree struct{ Command command }
	if err == nil {
		err = json.Unmarshal(out, &tree)
	}
	if err != nil {
		t.Fatal(err)
	}
	options := map[string][]string{} // of each command
	var each func(command)
	each = func(c command) {
		known := []string{"help"}
		for _, f := range append(slices.Clone(tree.Command.Flags), c.Flags...) {
			known = append(known, f.Name)
		}
		options[c.Name] = known
		for _, sub := range c.Commands {
			each(sub)
		}
	}
	each(tree.Command)

	files, err := filepath.Glob("../*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../man/*")
	if err != nil {
		t.Fatal(err)
	}
	typed := regexp.MustCompile("(?m)(?:^    (?:sudo )?|`)lull( [^`\n#]+)")
	option := regexp.MustCompile(`--([a-z][a-z-]*)`)
	seen := 0
	for _, file := range append(append(files, more...), "../../README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range typed.FindAllStringSubmatch(string(b), -1) {
			seen++
			name, line := "lull", m[1]
			for _, word := range strings.Fields(line) {
				if word == "--user" { // of every command, before or after its name
					continue
				}
				if options[name+" "+word] == nil {
					break
				}
				name += " " + word
			}
			line, _, _ = strings.Cut(line, " -- ") // what follows is another program's
			if first := strings.Fields(line)[0]; name == "lull" && first != "help" && !strings.HasPrefix(first, "-") {
				t.Errorf("%s: there is no lull%s", file, line)
			}
			for _, o := range option.FindAllStringSubmatch(line, -1) {
				if !slices.Contains(options[name], o[1]) {
					t.Errorf("%s: %s has no --%s", file, name, o[1])
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("got %d commands in the texts, want at least 30", seen)
	}
}

// TestKeysOfThePolicy: each key is told of, with its default.
func TestKeysOfThePolicy(t *testing.T) {
	text := keys(string(policy.DefaultsYAML))
	for _, v := range policy.Defaults().Explain("", manifest.Wishes{}) {
		section, key, ok := strings.Cut(v.Key, ".")
		if !ok {
			section, key = "defaults", v.Key
		}
		_, after, _ := strings.Cut(text, "### "+section+"\n")
		after, _, _ = strings.Cut(after, "\n### ")
		i := strings.Index(after, "\n`"+key+"`")
		if i < 0 {
			t.Errorf("the section %s does not tell of %s:\n%s", section, key, after)
			continue
		}
		about := strings.Split(after[i+1:], "\n")
		if v.Value != "" && !strings.Contains(about[0], "(default `") {
			t.Errorf("%s: got %q, want its default", v.Key, about[0])
		}
		if len(about) < 2 || len(about[1]) < 10 {
			t.Errorf("%s: got %q, want a line of at least 10 bytes about it", v.Key, about[1:])
		}
	}
}

func TestEntriesOfComments(t *testing.T) {
	got := keys("a:\n  # One of\n  #   x    the first\n  #        of them\n  #   y    the last\n  # and so on.\n  b: [x]\n")
	if want := "\n### a\n\n\n`b` (default `[x]`)\n: One of\n`x`: the first\nof them;\n`y`: the last.\nand so on.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	p := &page{}
	p.markdown(`## First *things*

Text with ` + "`code`" + `, *emphasis*, **weight**, lulld(8), and [a page](policy.md), in
two lines. A second sentence.

.dots and 'quotes' at the beginning

    code  -x \n

- one
  goes on
- two

| a | b | c |
| --- | --- | --- |
| x | y | z \| w |

` + "`key`" + `
: what it is
`)
	want := `.SH "FIRST THINGS"
Text with \fBcode\fR, \fIemphasis\fR, \fBweight\fR, \fBlulld\fR(8), and \fBlull\-policy\fR(5), in
two lines.
A second sentence.
.PP
\&.dots and \(aqquotes\(aq at the beginning
.PP
.RS 4
.nf
code  \-x \en
.fi
.RE
.IP \(bu 2
one goes on
.IP \(bu 2
two
.TP
x
\fIb:\fR y; \fIc:\fR z | w.
.TP
\fBkey\fR
what it is
`
	got := p.String()
	// Where lines break does not matter.
	if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("got:\n%s\nwant, apart from line breaks:\n%s", got, want)
	}
}
