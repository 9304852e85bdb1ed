// Command manual makes the manual pages. Each has one source: those of the
// commands are made of what `lull commands --json` says, the others are Markdown,
// in docs/man/NAME.SECTION.md or, where one text is both, in docs/. The keys of
// the policy come from the comments in policy/defaults.yaml.
//
// Words: a page is the text of one manual page in the language of man(7), which
// every formatter knows. Markdown here is what our own pages use: headings,
// paragraphs, lists, tables, indented code, `code`, **strong**, *emphasis* and
// links; pictures are left out.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// both are pages of docs/ that are manual pages, too.
var both = map[string]string{
	"policy.md":     "lull-policy.5",
	"packaging.md":  "lull.yaml.5",
	"repository.md": "lull-repository.5",
	"hooks.md":      "lull-hooks.7",
}

func main() {
	bin := flag.String("bin", "bin", "folder of the programs")
	to := flag.String("to", "dist/man", "folder for the pages")
	root := flag.String("source", ".", "folder of the source tree")
	flag.Parse()
	if err := run(*root, *bin, *to); err != nil {
		fmt.Fprintln(os.Stderr, "manual: "+err.Error())
		os.Exit(1)
	}
}

// run writes all pages.
func run(root, bin, to string) error {
	m := maker{root: root, to: to, date: date()}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	out, err := exec.Command(filepath.Join(bin, "lull"), "version", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &m)
	}
	if err != nil {
		return fmt.Errorf("cannot ask lull for its version: %w", err)
	}
	sources, err := filepath.Glob(filepath.Join(root, "docs/man/*.md"))
	if err != nil {
		return err
	}
	for _, source := range sources {
		if err := m.markdown(source, strings.TrimSuffix(filepath.Base(source), ".md")); err != nil {
			return err
		}
	}
	for source, name := range both {
		if err := m.markdown(filepath.Join(root, "docs", source), name); err != nil {
			return err
		}
	}
	return m.commands(bin)
}

// maker makes pages.
type maker struct {
	Lull     string `json:"lull"` // version
	root, to string
	date     string
}

// date is that of the source, if it is known
// (https://reproducible-builds.org/specs/source-date-epoch/).
func date() string {
	t := time.Now()
	if sec, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		t = time.Unix(sec, 0)
	}
	return t.UTC().Format("2006-01-02")
}

// write puts a page into its file. name is NAME.SECTION.
func (m *maker) write(name, summary string, body func(*page)) error {
	i := strings.LastIndexByte(name, '.')
	p := newPage(name[:i], name[i+1:], m.date, "lull "+m.Lull, summary)
	body(p)
	return os.WriteFile(filepath.Join(m.to, name), p.Bytes(), 0o644)
}

// markdown makes a page of a Markdown file. Its first line is "# NAME: what it
// is", or "# What it is" in docs/.
func (m *maker) markdown(source, name string) error {
	b, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	title, text, ok := strings.Cut(string(b), "\n")
	if !ok || !strings.HasPrefix(title, "# ") {
		return fmt.Errorf("%s: it does not begin with a heading", source)
	}
	title = strings.TrimPrefix(title, "# ")
	if _, after, ok := strings.Cut(title, ": "); ok {
		title = after
	}
	if before, after, ok := strings.Cut(text, "<!-- keys of the policy -->"); ok {
		defaults, err := os.ReadFile(filepath.Join(m.root, "policy/defaults.yaml"))
		if err != nil {
			return err
		}
		if _, rest, ok := strings.Cut(after, "<!-- end -->"); ok {
			after = rest
		}
		text = before + keys(string(defaults)) + after
	}
	return m.write(name, strings.ToLower(title[:1])+title[1:], func(p *page) {
		if !strings.HasPrefix(strings.TrimSpace(text), "#") {
			p.heading("DESCRIPTION")
		}
		p.markdown(text)
	})
}
