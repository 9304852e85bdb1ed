package publish

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/lull/lull/agent/lib/errkind"
)

// IgnoreFile lists, in the package source, the files that are not published. Its syntax is
// that of gitignore(5), at the top of the source only.
const IgnoreFile = ".lullignore"

// defaultIgnores are the patterns that precede those of the IgnoreFile: version
// control, the private files of shells, editors and desktops, and credentials.
// A package that needs one re-includes it with "!".
const defaultIgnores = `
.git
.gitmodules
.hg
.svn
.bzr
.jj
CVS
_darcs
*~
.*.swp
.*.swo
\#*#
.#*
.DS_Store
Thumbs.db
.Trash-*
.directory
lost+found
.nfs*
.env
.netrc
.npmrc
.pypirc
.ssh
.gnupg
.aws
.bash_history
`

// ignoreRule is one line of an ignore file.
type ignoreRule struct {
	pattern string // doublestar, matched with the whole path
	dirOnly bool
	include bool // the line began with "!"
}

// ignoreRules are ordered; the last one that matches a path decides.
type ignoreRules []ignoreRule

// loadIgnores returns the default rules and those of the source.
func loadIgnores(src string) (ignoreRules, error) {
	rules, err := parseIgnores("built in", []byte(defaultIgnores))
	if err != nil {
		return nil, err
	}
	name := filepath.Join(src, IgnoreFile)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return rules, nil
	}
	if err != nil {
		return nil, err
	}
	own, err := parseIgnores(name, data)
	return append(rules, own...), err
}

func parseIgnores(name string, data []byte) (rules ignoreRules, err error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if !strings.HasSuffix(line, `\ `) {
			line = strings.TrimRight(line, " \t")
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var r ignoreRule
		line, r.include = strings.CutPrefix(line, "!")
		line, r.dirOnly = strings.CutSuffix(line, "/")
		// A slash at the beginning or in the middle anchors the pattern.
		anchored := strings.Contains(line, "/")
		r.pattern = strings.TrimPrefix(line, "/")
		if !anchored {
			r.pattern = "**/" + r.pattern
		}
		// doublestar supports {a,b}, gitignore does not.
		r.pattern = strings.NewReplacer("{", `\{`, "}", `\}`).Replace(r.pattern)
		if r.pattern == "" || !doublestar.ValidatePattern(r.pattern) {
			return nil, errkind.New(errkind.Invalid, "%s:%d: cannot use the pattern %.80q", name, n, line)
		}
		rules = append(rules, r)
	}
	if err := lines.Err(); err != nil {
		return nil, errkind.Errorf("%s: %w", name, err)
	}
	return rules, nil
}

// ignores reports whether a path, relative and with slashes, is left out of the package.
func (rules ignoreRules) ignores(rel string, isDir bool) bool {
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		if r.dirOnly && !isDir {
			continue
		}
		// The pattern is valid, so there is no error.
		if matches, _ := doublestar.Match(r.pattern, rel); matches {
			return !r.include
		}
	}
	return false
}

// isRepository reports whether a directory is, or is a copy of, a repository.
func isRepository(dir string) bool {
	for _, sign := range []string{"metadata/timestamp.json", "metadata/1.root.json", "metadata/1.targets.json"} {
		if fi, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(sign))); err == nil && fi.Mode().IsRegular() {
			return true
		}
	}
	for _, sub := range []string{"metadata", "channels", "blobs"} {
		if fi, err := os.Lstat(filepath.Join(dir, sub)); err != nil || !fi.IsDir() {
			return false
		}
	}
	return true
}
