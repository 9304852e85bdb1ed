package publish_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/sysmanifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

// nested publishes a source as `lull publish` does.
func nested(t *testing.T, dir, src string) (*publish.Result, error) {
	t.Helper()
	return publish.Publish(t.Context(), dir, src, publish.Options{Nested: true})
}

// refusedBy checks an error of kind Invalid or Conflict with a text.
func refusedBy(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !errkind.Is(err, errkind.Invalid) && !errkind.Is(err, errkind.Conflict) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v (%s), want %q", err, errkind.KindOf(err), want)
	}
}

func TestReferences(t *testing.T) {
	dir := initRepo(t)
	runtime := source(t, map[string]string{"lull.yaml": "name: org.example.Runtime\nversion: 1.2\n", "lib/run*": "runtime"})
	lib, err := nested(t, dir, runtime)
	must(t, err)
	src := source(t, map[string]string{
		"lull.yaml": "name: org.example.app\nversion: 1\napps: [{name: app, command: .lull/sub/runtime/lib/run}]\nsubpackages:\n" +
			"  runtime: org.example.Runtime@stable\n  same: org.example.Runtime\n  hash: " + lib.Package.String() + "\n  inner: ./parts/inner\n",
		"app":                     "app",
		"parts/inner/lull.yaml":   "name: inner\nversion: 3\nsubpackages: {runtime: org.example.Runtime, more: ../more}\n",
		"parts/inner/inner":       "inner",
		"parts/more/lull.yaml":    "name: more\nversion: 4\n",
		"parts/more/more":         strings.Repeat("more", 1000),
		"parts/more/.lullignore":  "junk\n",
		"parts/more/junk/ignored": "junk",
	})
	res, err := nested(t, dir, src)
	must(t, err)
	c := open(t, dir)
	m := readMeta(t, c, res.Package)
	for _, name := range []string{"runtime", "same", "hash"} {
		if m.Subpackages[name] != lib.Package {
			t.Errorf("%s is %s, want %s", name, m.Subpackages[name], lib.Package)
		}
	}
	inner := readMeta(t, c, m.Subpackages["inner"])
	if inner.Name != "inner" || len(inner.Entries) != 1 || inner.Subpackages["runtime"] != lib.Package || readMeta(t, c, inner.Subpackages["more"]).Name != "more" {
		t.Errorf("the nested package is %+v, want inner with 1 entry, the runtime %s and more", inner, lib.Package)
	}
	var paths []string
	for _, e := range m.Entries {
		paths = append(paths, e.Path)
	}
	// parts/more is no subpackage of this one, so that it is also content.
	if want := []string{"app", "parts/more/.lullignore", "parts/more/junk/ignored", "parts/more/lull.yaml", "parts/more/more"}; !slices.Equal(paths, want) {
		t.Errorf("the package has %q, want %q", paths, want)
	}
	var titles []string
	for _, r := range res.Subpackages {
		titles = append(titles, r.Name+"="+r.Title+" "+r.From)
	}
	want := []string{"hash=org.example.Runtime 1.2 " + lib.Package.Short(), "inner=inner 3 parts/inner", "runtime=org.example.Runtime 1.2 org.example.Runtime@stable", "same=org.example.Runtime 1.2 org.example.Runtime@stable"}
	if !slices.Equal(titles, want) {
		t.Errorf("the result has %q, want %q", titles, want)
	}
	if first := res.Subpackages[2]; first.Bytes != lib.Bytes || res.Bytes < 2*first.Bytes || res.NewBlobs < 6 {
		t.Errorf("got sizes %d of the runtime and %d together, %d new blobs; want %d, at least twice that, and at least 6", first.Bytes, res.Bytes, res.NewBlobs, lib.Bytes)
	}
	if got, err := c.Channel(t.Context(), "inner", "stable"); err == nil {
		t.Errorf("a nested package has a channel: got %v, want an error", got)
	}

	// A later version in the channel changes the next publication, not this one.
	must(t, os.WriteFile(filepath.Join(runtime, "lull.yaml"), []byte("name: org.example.Runtime\nversion: 1.3\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(runtime, "lib/run"), []byte("runtime 1.3"), 0o755))
	newer, err := nested(t, dir, runtime)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: org.example.app\nversion: 2\nsubpackages: {runtime: org.example.Runtime}\n"), 0o644))
	res, err = nested(t, dir, src)
	must(t, err)
	if m := readMeta(t, c, res.Package); m.Subpackages["runtime"] != newer.Package {
		t.Errorf("the runtime is %s, want %s", m.Subpackages["runtime"], newer.Package)
	}
	// A halted one is not taken.
	_, err = publish.Halt(t.Context(), dir, publish.HaltOptions{ChannelOptions: publish.ChannelOptions{Name: "org.example.Runtime"}})
	must(t, err)
	res, err = nested(t, dir, src)
	must(t, err)
	if m := readMeta(t, c, res.Package); m.Subpackages["runtime"] != lib.Package {
		t.Errorf("the runtime is %s, want %s", m.Subpackages["runtime"], lib.Package)
	}
}

func TestBadSubpackages(t *testing.T) {
	dir := initRepo(t)
	deep := source(t, map[string]string{"lull.yaml": tiny + "subpackages: {next: ./n}\n"})
	for at, i := filepath.Join(deep, "n"), 0; i < 20; at, i = filepath.Join(at, "n"), i+1 {
		must(t, os.Mkdir(at, 0o755))
		must(t, os.WriteFile(filepath.Join(at, "lull.yaml"), []byte(tiny+"subpackages: {next: ./n}\n"), 0o644))
	}
	_, err := nested(t, dir, deep)
	refusedBy(t, err, "sources are nested more than 16 deep")
	for refs, want := range map[string]string{
		"{x: ./itself/..}":                     "contains itself",
		"{x: ./away}":                          "no such file or directory",
		"{x: ./plain}":                         "it has no lull.yaml",
		"{x: ./secret}":                        "private key",
		"{x: ./loop}":                          "contains itself",
		"{x: org.example.none@stable}":         `the repository has no package org.example.none in channel "stable"`,
		"{x: org.example.none}":                `the repository has no package org.example.none in channel "stable"`,
		"{x: a@b@c}":                           "nor NAME@CHANNEL nor a path",
		"{x: a/b}":                             "nor NAME@CHANNEL nor a path",
		"{x: /etc}":                            "nor NAME@CHANNEL nor a path",
		"{x: " + strings.Repeat("F", 64) + "}": "64 lower-case hexadecimal digits",
		"{x: " + strings.Repeat("0", 64) + "}": "a hash of zeros",
		"{x: " + strings.Repeat("a", 64) + "}": "which is not (whole) in the repository",
		"{a.b: ./plain, a-b: ./plain}":         "its variable would be that of a-b, LULL_SUBPACKAGE_A_B",
		"{x_y: ./plain}":                       "cannot use",
	} {
		src := source(t, map[string]string{"lull.yaml": tiny + "subpackages: " + refs + "\n", "itself/x": "x", "plain/x": "x",
			"secret/lull.yaml": tiny, ".lullignore": "key.pem\n", "secret/key.pem": ecKey(t), "loop/lull.yaml": "name: b\nversion: 1\nsubpackages: {up: ../}\n"})
		_, err := nested(t, dir, src)
		refusedBy(t, err, want)
	}
	// Who publishes for others reads none of their paths.
	src := source(t, map[string]string{"lull.yaml": tiny + "subpackages: {x: ./sub}\n", "sub/lull.yaml": "name: b\nversion: 1\n"})
	_, err = publish.Publish(t.Context(), dir, src, publish.Options{})
	refusedBy(t, err, "cannot be used here")
}

func TestOrder(t *testing.T) {
	write := func(name, more, system string) string {
		files := map[string]string{"lull.yaml": "name: " + name + "\nversion: 1\n" + more}
		if system != "" {
			files["system.json"] = system
		}
		return source(t, files)
	}
	a, b := write("a", "subpackages: {x: b@stable, y: elsewhere}\n", ""), write("b", "", "")
	s := write("s", "", `{"version":"1","base":["a@stable"]}`)
	got, err := publish.Order([]string{s, a, b})
	must(t, err)
	if !slices.Equal(got, []string{b, a, s}) {
		t.Errorf("the order is %q; want %v", got, []string{b, a, s})
	}
	_, err = publish.Order([]string{b, write("b", "", "")})
	refusedBy(t, err, "both are b")
	_, err = publish.Order([]string{a, write("b", "subpackages: {x: a}\n", "")})
	refusedBy(t, err, "contains itself")
	_, err = publish.Order([]string{a, write("c", "", `{`)})
	refusedBy(t, err, "system.json")
}

func TestPublishSystem(t *testing.T) {
	dir := initRepo(t)
	base, err := nested(t, dir, source(t, map[string]string{"lull.yaml": "name: base\nversion: 7\nhooks: {health: ok}\n", "ok*": "#!/bin/sh\n"}))
	must(t, err)
	image, err := nested(t, dir, source(t, map[string]string{"lull.yaml": "name: image\nversion: 7\n", "image": "image"}))
	must(t, err)
	publishSystem := func(text, more string) (*publish.Result, error) {
		return nested(t, dir, source(t, map[string]string{"lull.yaml": "name: os\nversion: 7\n" + more, "system.json": text, "install*": "#!/bin/sh\n"}))
	}
	const hook = "hooks: {pre-refresh: install}\n"
	res, err := publishSystem(`{"version": "7", "images": ["image"], "base": ["base@stable"], "cache": ["`+image.Package.String()+`"]}`, hook)
	must(t, err)
	if s := res.System; s == nil || s.Version != "7" || s.Unchecked || len(s.Images) != 1 || s.Base[0].Package != base.Package || s.Base[0].Title != "base 7" || s.Cache[0].Package != image.Package {
		t.Errorf("the result is %+v, want a checked version 7 with 1 image, base 7 (%s) and the cache %s", res.System, base.Package, image.Package)
	}
	c := open(t, dir)
	for _, e := range readMeta(t, c, res.Package).Entries {
		if e.Path != "system.json" {
			continue
		}
		m, err := sysmanifest.Parse(content(t, c, e.Blob))
		must(t, err)
		if m.Version != "7" || m.Images[0] != image.Package || m.Base[0] != base.Package || m.Cache[0] != image.Package {
			t.Errorf("published: got %+v, want version 7 with image and cache %s and base %s", m, image.Package, base.Package)
		}
	}
	// A file with hashes alone is published as it is.
	text, err := json.Marshal(map[string]any{"base": []string{image.Package.String()}, "version": "8"})
	must(t, err)
	res, err = publishSystem(string(text), "")
	must(t, err)
	if m := readMeta(t, c, res.Package); !res.System.Unchecked || !slices.ContainsFunc(blobs(m), func(d digest.Digest) bool { return d == digest.Of(text) }) {
		t.Errorf("got %+v and the blobs %v, want it unchecked and the file as it is (%s)", res.System, blobs(m), digest.Of(text))
	}
	must(t, os.Remove(filepath.Join(dir, filepath.FromSlash(repo.BlobPath(digest.Of([]byte("image")))))))
	other := strings.Repeat("a", 64)
	for text, want := range map[string]string{
		`{"version":"7","base":["` + other[1:] + `"]}`:                                    `base: "` + other[1:] + `": the repository has no package`,
		`{"version":"7","base":["` + strings.ToUpper(other) + `"]}`:                       `base: "AAAA`,
		`{"version":"7","base":["` + other + `"]}`:                                        "which is not (whole) in the repository",
		`{"version":"7","base":["` + image.Package.String() + `"]}`:                       "is not in the repository",
		`{"version":"7","base":["base","` + base.Package.String() + `"]}`:                 "is the same package",
		`{"version":"7","base":["base"],"images":["base"]}`:                               "it has images, and lull.yaml has no pre-refresh hook",
		`{"version":"7","base":["./plain"]}`:                                              "a path cannot be used here",
		`{"version":"7","base":["nothing@edge"]}`:                                         `has no package nothing in channel "edge"`,
		`{"version":"7","bases":["base"]}`:                                                `the key "bases" is not known`,
		`{"version":"7"}`:                                                                 "it names no package in base or cache",
		`{"version":"7","base":["base"]` + strings.Repeat(" ", sysmanifest.MaxSize) + `}`: "it is larger than",
	} {
		_, err := publishSystem(text, "")
		refusedBy(t, err, want)
	}
}

func content(t *testing.T, c *repo.Client, d digest.Digest) []byte {
	t.Helper()
	r, err := c.Blob(t.Context(), d, 0)
	must(t, err)
	defer r.Close()
	text, err := io.ReadAll(r)
	must(t, err)
	return text
}

func blobs(m *manifest.Meta) (list []digest.Digest) {
	for _, b := range m.Blobs() {
		list = append(list, b.Digest)
	}
	return list
}
