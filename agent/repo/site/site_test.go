package site

import (
	"bytes"
	"compress/gzip"
	"flag"
	"image"
	"image/color"
	"image/png"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var day = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// initRepo makes an empty repository.
func initRepo(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "example")
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{Common: publish.Common{Now: day}}))
	return dir
}

// put publishes a package of files. A path that ends in "*" is executable.
func put(t *testing.T, dir string, files map[string]string, o publish.Options) {
	t.Helper()
	src := t.TempDir()
	for name, content := range files {
		path, mode := filepath.Join(src, strings.TrimSuffix(name, "*")), fs.FileMode(0o644)
		if strings.HasSuffix(name, "*") {
			mode = 0o755
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), mode))
	}
	if o.Now.IsZero() {
		o.Now = day
	}
	_, err := publish.Publish(t.Context(), dir, src, o)
	must(t, err)
}

// drawing is a picture of a size, as a PNG.
func drawing(w, h int) string {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, color.NRGBA{R: uint8(x), G: uint8(y), B: 200, A: 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.String()
}

const notesMetainfo = `<?xml version="1.0" encoding="UTF-8"?>
<component type="desktop-application">
  <id>org.example.notes</id>
  <metadata_license>CC0-1.0</metadata_license>
  <project_license>MIT</project_license>
  <name>Notes</name>
  <name xml:lang="de">Notizen</name>
  <summary>Write a note now and then</summary>
  <summary xml:lang="de">Ab und zu eine Notiz schreiben</summary>
  <developer_name>Example &amp; Sons</developer_name>
  <description>
    <p>Keeps what you write.</p>
    <p xml:lang="de">Behält, was Sie schreiben.</p>
    <ul><li>Fast</li><li xml:lang="de">Schnell</li><li>Small</li></ul>
  </description>
  <url type="homepage">https://example.org/notes</url>
  <url type="bugtracker">javascript:alert(1)</url>
  <categories><category>Utility</category></categories>
  <screenshots>
    <screenshot type="default"><caption>The window</caption><caption xml:lang="de">Das Fenster</caption><image>https://example.org/pictures/window.png</image></screenshot>
    <screenshot><caption>On the web</caption><image>https://example.org/pictures/far.png</image></screenshot>
  </screenshots>
  <releases>
    <release version="2" date="2026-11-20"><description><p>Not shown: the offer has notes.</p></description></release>
    <release version="1" date="2026-10-01"><description><p>The first one.</p><p xml:lang="de">Die erste.</p></description></release>
  </releases>
</component>
`

// notes is a package with all that the page shows.
func notes() map[string]string {
	return map[string]string{
		"lull.yaml":  "name: org.example.notes\nversion: \"2\"\ntitle: Notes\nlicense: MIT\napps: [{name: notes, command: [bin/notes], desktop: share/applications/org.example.notes.desktop}]\n",
		"bin/notes*": "#!/bin/sh\n",
		"share/applications/org.example.notes.desktop":           "[Desktop Entry]\nType=Application\nName=Notes\nName[de]=Notizen\nComment=Write a note now and then\nExec=notes\nIcon=org.example.notes\nCategories=Utility;\n",
		"share/metainfo/org.example.notes.metainfo.xml":          notesMetainfo,
		"share/icons/hicolor/256x256/apps/org.example.notes.png": drawing(256, 256),
		"share/screenshots/window.png":                           drawing(320, 200),
	}
}

// fillRepo makes the repository of the golden pages.
func fillRepo(t *testing.T, dir string) {
	put(t, dir, notes(), publish.Options{Urgency: repo.UrgencySecurity, Notes: "Fixes the loss of a line.\n\nTwo more things:\n- faster <b>\n- smaller"})
	put(t, dir, map[string]string{"lull.yaml": "name: org.example.clock\nversion: 1.0\ntitle: Clock\nsummary: Shows the time\napps: [{name: clock, command: [bin/clock]}]\n", "bin/clock*": "#!/bin/sh\n"},
		publish.Options{Urgency: repo.UrgencyLow, Channel: "edge", Rollout: new(10)})
}

// read returns the files of a site.
func read(t *testing.T, out string) map[string]string {
	t.Helper()
	files := map[string]string{}
	must(t, filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(out, path)
		files[rel] = string(data)
		return err
	}))
	return files
}

func unpacked(t *testing.T, packed string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(packed))
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, err)
	return string(data)
}

// TestGolden: the pages of a repository are those in testdata. A second run makes the same
// bytes, with the options that the first one has kept.
func TestGolden(t *testing.T) {
	dir := initRepo(t)
	fillRepo(t, dir)
	out := filepath.Join(dir, "site")
	r, err := Make(t.Context(), dir, Options{Output: out, URL: "https://example.org/lull/", Title: "Programs of <Example>"})
	must(t, err)
	if r.Applications != 2 || len(r.LeftOut) != 0 {
		t.Errorf("got %+v, want 2 applications and nothing left out", r)
	}
	files := read(t, out)
	root, err := os.ReadFile(filepath.Join(dir+".keys", "root.json"))
	must(t, err)
	keys, err := repo.Fingerprints(root)
	must(t, err)
	for _, name := range []string{"index.html", "de/index.html", "apps/org.example.notes.html", "de/apps/org.example.notes.html", "apps/org.example.clock.html", "appstream/catalog.xml"} {
		got := strings.ReplaceAll(files[name], keys[0], "FINGERPRINT")
		if name == "appstream/catalog.xml" {
			got = unpacked(t, files[name+".gz"])
		}
		got = strings.Replace(got, styleCSS, "STYLE\n", 1)
		golden := filepath.Join("testdata", strings.ReplaceAll(name, "/", "_"))
		if *update {
			must(t, os.WriteFile(golden, []byte(got), 0o644))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if got != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	if _, err := Make(t.Context(), dir, Options{Output: out}); err != nil {
		t.Fatal(err)
	}
	if again := read(t, out); !maps.Equal(files, again) {
		t.Errorf("a second run makes other files: got %q, want %q", slices.Sorted(maps.Keys(again)), slices.Sorted(maps.Keys(files)))
	}
	names, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range names {
		if strings.HasSuffix(e.Name(), ".new") {
			t.Errorf("%s is left behind", e.Name())
		}
	}
}

// TestAppStream: AppStream's own tool accepts the catalogue. Its version 1 fails on
// warnings; that an application has no website is one, and not the catalogue's fault.
func TestAppStream(t *testing.T) {
	tool := require.Program(t, "appstreamcli")
	dir := initRepo(t)
	fillRepo(t, dir)
	out := filepath.Join(dir, "site")
	_, err := Make(t.Context(), dir, Options{Output: out, URL: "https://example.org/lull"})
	must(t, err)
	b, err := exec.Command(tool, "validate", "--no-net", filepath.Join(out, catalogFile)).CombinedOutput()
	faults, accepted := 0, 0
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.HasPrefix(line, "W: ") && strings.HasSuffix(line, " url-homepage-missing\n"):
			accepted++
		case strings.HasPrefix(line, "E: "), strings.HasPrefix(line, "W: "):
			faults++
		}
	}
	if faults > 0 || err != nil && accepted == 0 {
		t.Errorf("appstreamcli: got %v and %d faults, want none\n%s", err, faults, b)
	}
}

// TestReplaced: only a site is replaced, and not by one that cannot be made.
func TestReplaced(t *testing.T) {
	dir := initRepo(t)
	fillRepo(t, dir)
	out := filepath.Join(t.TempDir(), "pages")
	must(t, os.MkdirAll(out, 0o755))
	must(t, os.WriteFile(filepath.Join(out, "mine"), nil, 0o644))
	if _, err := Make(t.Context(), dir, Options{Output: out}); !errkind.Is(err, errkind.Invalid) {
		t.Errorf("a directory of other files: got %v, want an error of kind %s", err, errkind.Invalid)
	}
	must(t, os.Remove(filepath.Join(out, "mine")))
	_, err := Make(t.Context(), dir, Options{Output: out})
	must(t, err)
	before := read(t, out)
	blobs, err := filepath.Glob(filepath.Join(dir, "metadata", "*.targets.json"))
	must(t, err)
	for _, b := range blobs {
		must(t, os.Remove(b))
	}
	if _, err := Make(t.Context(), dir, Options{Output: out}); err == nil || !maps.Equal(before, read(t, out)) {
		t.Errorf("without metadata: got %v, want an error and the old page", err)
	}
	for _, url := range []string{"javascript:alert(1)", "https://example.org/$(id)", "https://a:b@example.org", "example.org"} {
		if _, err := Make(t.Context(), dir, Options{Output: out, URL: url}); !errkind.Is(err, errkind.Usage) {
			t.Errorf("the address %q: got %v, want an error of kind %s", url, err, errkind.Usage)
		}
	}
}

// TestDamagedPackage: a package that cannot be read is left out and named; the others are shown.
func TestDamagedPackage(t *testing.T) {
	dir := initRepo(t)
	fillRepo(t, dir)
	catalog, err := publish.ReadCatalog(t.Context(), dir, publish.Common{})
	must(t, err)
	offers, err := catalog.Offers("org.example.clock")
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, repo.BlobPath(offers[0][0].Package))))
	r, err := Make(t.Context(), dir, Options{Output: filepath.Join(dir, "site")})
	must(t, err)
	if r.Applications != 1 || len(r.LeftOut) != 1 || r.LeftOut[0].Package != "org.example.clock" {
		t.Errorf("got %+v, want one application, and org.example.clock left out", r)
	}
}

// TestPages: more applications than a page has are on several.
func TestPages(t *testing.T) {
	dir := initRepo(t)
	var dirs []string
	for i := range perPage + 1 {
		src := t.TempDir()
		name := "org.example.p" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		must(t, os.WriteFile(filepath.Join(src, "lull.yaml"), []byte("name: "+name+"\nversion: 1\n"), 0o644))
		must(t, os.WriteFile(filepath.Join(src, "file"), []byte(name), 0o644))
		dirs = append(dirs, src)
	}
	_, err := publish.PublishAll(t.Context(), dir, dirs, publish.Options{Common: publish.Common{Now: day}})
	must(t, err)
	out := filepath.Join(dir, "site")
	_, err = Make(t.Context(), dir, Options{Output: out})
	must(t, err)
	files := read(t, out)
	if n := strings.Count(files["index.html"], `class="card"`); n != perPage {
		t.Errorf("the first page has %d applications, want %d", n, perPage)
	}
	if p := files["page-2.html"]; strings.Count(p, `class="card"`) != 1 || !strings.Contains(p, `rel="prev" href="index.html"`) {
		t.Errorf("the second page is %s; want one application and a link back", p)
	}
	if !strings.Contains(files["index.html"], `rel="next" href="page-2.html"`) || strings.Contains(files["de/page-2.html"], "lull repo add") {
		t.Error("want a link to the second page on the first, and how to add the repository on the first alone")
	}
}
