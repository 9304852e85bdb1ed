package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPasswordsAreNotArguments: a password in the address is refused, without being shown. A
// password from a file or from standard input is sent to the agent alone.
func TestPasswordsAreNotArguments(t *testing.T) {
	f := startAgent(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := file("root.json", "{}")
	for _, c := range []struct {
		name, address, from, stdin string
		code                       int
		want                       string // the address that the agent gets, or a text of the error
	}{
		{"in the address", "https://ann:s3cret@x/", "", "", 64, "can be read by every user"},
		{"in an address that is none", "https://ann:s3cret@%zz/", "", "", 65, "no URL"},
		{"a user alone", "https://ann@x/", "", "", 0, "https://ann@x/"},
		{"a file", "https://ann@x/", file("line", "s3cret\n"), "", 0, "https://ann:s3cret@x/"},
		{"a file without an end of line", "https://ann@x/", file("bare", "s3cret"), "", 0, "https://ann:s3cret@x/"},
		{"what has to be quoted", "https://ann@x/", file("odd", "s3cret@/:?#%\r\n"), "", 0, "https://ann:s3cret%40%2F%3A%3F%23%25@x/"},
		{"standard input", "https://ann@x/", "-", "s3cret\n", 0, "https://ann:s3cret@x/"},
		{"nothing", "https://ann@x/", "-", "", 65, "empty"},
		{"lines", "https://ann@x/", file("lines", "s3cret\nmore\n"), "", 65, "more than one line"},
		{"a long one", "https://ann@x/", file("long", strings.Repeat("s3cret", 1000)), "", 65, "longer than"},
		{"no such file", "https://ann@x/", filepath.Join(dir, "gone"), "", 65, "no such file"},
		{"of nobody", "https://x/", file("whose", "s3cret"), "", 64, "the user of the password"},
		{"of a directory", dir, file("local", "s3cret"), "", 64, "http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"--bus=" + f.address, "repo", "add", "--trust=" + root, "main", c.address}
			if c.from != "" {
				args = append(args, "--password-file="+c.from)
			}
			f.repositories(map[string]string{})
			var out, errs bytes.Buffer
			code := run(t.Context(), args, strings.NewReader(c.stdin), &out, &errs)
			if code != c.code || strings.Contains(out.String()+errs.String(), "s3cret") {
				t.Errorf("status %d, want %d\n%s%s", code, c.code, out.String(), errs.String())
			}
			if got := f.repositories(nil)["main"]; c.code == 0 && got != c.want || c.code != 0 && (got != "" || !strings.Contains(errs.String(), c.want)) {
				t.Errorf("got exit status %d, address %q in the agent and error output %q; want status %d and %q (after a success the address, else a part of the error)", code, got, errs.String(), c.code, c.want)
			}
		})
	}
}
