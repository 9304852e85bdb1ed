package exports

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/e2e/require"
)

const mimeInfo = `<?xml version="1.0"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="application/x-lull-note">
    <comment>note of lull</comment>
    <comment xml:lang="de">Notiz von lull</comment>
    <acronym>LN</acronym>
    <sub-class-of type="text/plain"/>
    <alias type="text/x-lull-note"/>
    <generic-icon name="text-x-generic"/>
    <glob pattern="*.lullnote" weight="90"/>
    <glob pattern="*.lull.NOTE.gz"/>
    <glob pattern="*.LullCase" case-sensitive="true"/>
    <glob pattern="LullNotes"/>
    <glob pattern="*.txt"/>
    <glob pattern="*"/>
    <glob pattern="README.lull"/>
    <glob pattern="*.[ab]"/>
    <magic priority="100"><match type="string" offset="0" value="#"/></magic>
  </mime-type>
  <mime-type type="application/x-lull-book"><comment>book</comment><glob pattern="*.lullbook"/></mime-type>
  <mime-type type="text/plain"><glob pattern="*.lulltext"/></mime-type>
  <mime-type type="inode/directory"/>
</mime-info>
`

func mimePackage(t *testing.T, info string) (*manifest.Launch, string) {
	t.Helper()
	pkg := t.TempDir()
	write(t, pkg+"/usr/share/mime/packages/note.xml", info)
	write(t, pkg+"/usr/share/icons/hicolor/48x48/mimetypes/application-x-lull-note.png", png)
	write(t, pkg+"/usr/share/icons/hicolor/48x48/mimetypes/application-pdf.png", png)
	write(t, pkg+"/usr/share/applications/note.desktop", entry("note")+"MimeType=application/x-lull-note;\n")
	return &manifest.Launch{Name: "note", Apps: []manifest.App{{Name: "note", Command: []string{"bin/note"}, Desktop: "usr/share/applications/note.desktop"}}}, pkg
}

// TestMimeTypes: types of a package are exported without what would change the types of files
// of others, and programs of the system find them.
func TestMimeTypes(t *testing.T) {
	require.Program(t, "gio", "xdg-mime", "update-mime-database")
	root := t.TempDir()
	m, pkg := mimePackage(t, mimeInfo)
	e := open(t, root)
	if err := errors.Join(e.Claim("note", m, pkg), e.Write("note", m, pkg)); err != nil {
		t.Fatal(err)
	}
	want := "bin/note share/applications/mimeinfo.cache share/applications/note.desktop share/icons/hicolor/48x48/mimetypes/application-x-lull-note.png " +
		"share/mime/application/x-lull-book.xml share/mime/application/x-lull-note.xml share/mime/mime.cache share/mime/types"
	if got := files(t, root); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	exported := read(t, root+"/exports/share/mime/application/x-lull-note.xml")
	if strings.Contains(exported, "magic") || strings.Contains(exported, "*.txt") || strings.Contains(exported, "README") || strings.Contains(exported, "90") || !strings.Contains(exported, `<comment xml:lang="de">Notiz von lull</comment>`) {
		t.Errorf("the type: got\n%s\nwant the German comment, and neither magic, *.txt, README nor a weight of 90", exported)
	}

	// The tool of the system makes a cache of the same files.
	tool := filepath.Join(t.TempDir(), "mime")
	var types []string
	for _, name := range []string{"note", "book"} {
		_, body, _ := strings.Cut(read(t, root+"/exports/share/mime/application/x-lull-"+name+".xml"), "?>")
		types = append(types, body)
	}
	write(t, tool+"/packages/note.xml", `<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">`+strings.Join(types, "")+"</mime-info>")
	if out, err := exec.Command("update-mime-database", tool).CombinedOutput(); err != nil {
		t.Fatalf("update-mime-database: %v\n%s", err, out)
	}
	// Qt takes no type from the cache that this file does not name.
	if got, want := read(t, root+"/exports/share/mime/types"), read(t, tool+"/types"); got != want {
		t.Errorf("the list of types: got %q, want that of the tool, %q", got, want)
	}
	dir := t.TempDir()
	for file, want := range map[string]string{"a.lullnote": "application/x-lull-note", "A.LULLNOTE": "application/x-lull-note", "b.lull.note.gz": "application/x-lull-note",
		"c.LullCase": "application/x-lull-note", "c.lullcase": "text/plain", "LullNotes": "application/x-lull-note", "d.lullbook": "application/x-lull-book", "x.gz": "application/gzip",
		"e.txt": "text/plain", "e.lulltext": "text/plain", "lullnote": "text/plain"} {
		write(t, filepath.Join(dir, file), "# text\n")
		for where, share := range map[string]string{"ours": root + "/exports/share", "the tool's": filepath.Dir(tool)} {
			got := output(t, share, "gio", "info", "-a", "standard::content-type", filepath.Join(dir, file))
			if !strings.Contains(got, "content-type: "+want+"\n") && !strings.HasSuffix(got, "content-type: "+want) {
				t.Errorf("%s: gio has by %s cache\n%s\nwant %s", file, where, got, want)
			}
		}
	}
	share := root + "/exports/share"
	if got := output(t, share, "xdg-mime", "query", "filetype", filepath.Join(dir, "a.lullnote")); got != "application/x-lull-note" {
		t.Errorf("xdg-mime has the type %q, want application/x-lull-note", got)
	}
	if got := output(t, share, "gio", "mime", "text/x-lull-note"); !strings.Contains(got, "note.desktop") {
		t.Errorf("gio mime text/x-lull-note: got %s, want note.desktop, by the alias", got)
	}
	if got := output(t, share, "gio", "info", "-a", "standard::icon", filepath.Join(dir, "a.lullnote")); !strings.Contains(got, "application-x-lull-note, text-x-generic") {
		t.Errorf("gio has the icons %s; want %q", got, "application-x-lull-note, text-x-generic")
	}

	// Another instance gets neither the type nor its patterns, also of an agent that has been
	// restarted. A removal leaves nothing.
	e = open(t, root)
	other, from := mimePackage(t, strings.NewReplacer("x-lull-note", "x-lull-other", "x-lull-book", "x-lull-note").Replace(mimeInfo))
	other.Name = "other"
	other.Apps[0].Desktop = ""
	if err := errors.Join(os.Remove(from+"/usr/share/applications/note.desktop"), e.Claim("other", other, from), e.Write("other", other, from)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/exports/share/mime/application/x-lull-other.xml"); strings.Contains(got, "glob") || strings.Contains(got, "alias type=\"text/x-lull-note") {
		t.Errorf("the type of another instance: got\n%s\nwant no glob and no alias text/x-lull-note", got)
	}
	if got := read(t, root+"/exports/share/mime/application/x-lull-note.xml"); got != exported {
		t.Errorf("the type after another instance: got\n%s\nwant\n%s", got, exported)
	}
	if err := errors.Join(e.Remove("other"), e.Remove("note")); err != nil {
		t.Fatal(err)
	}
	if got := files(t, root); got != "" {
		t.Errorf("got %s left, want nothing", got)
	}
}

// output runs a program that finds the shared files in share and those of the system.
func output(t *testing.T, share string, argv ...string) string {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "XDG_DATA_DIRS=/usr/share:" + share, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home, "HOME=" + home, "LC_ALL=C.UTF-8", "XDG_CURRENT_DESKTOP=GNOME"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%q: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestMimeBounds: damaged, large and odd files are left out or made harmless.
func TestMimeBounds(t *testing.T) {
	const begin, end = `<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">`, `</mime-info>`
	many := func(n int, element string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, element, i)
		}
		return b.String()
	}
	for info, want := range map[string]string{
		"no XML": "note.xml: EOF",
		begin:    "note.xml: XML syntax error",
		begin + many(maxTypes+1, `<mime-type type="text/x-t%d"/>`) + end:                                                                                  "more than 200 MIME types",
		begin + `<mime-type type="x/../../../etc/passwd"/>` + end:                                                                                         "is no MIME type of files",
		begin + `<mime-type type="text/../../x"/>` + end:                                                                                                  "is no MIME type of files",
		begin + strings.Repeat(" ", maxMimeFile) + end:                                                                                                    "more than 1048576 bytes",
		begin + `<mime-type type="text/x-t"><glob pattern="` + strings.Repeat("x", 100) + `"/></mime-type>` + end:                                         "too general",
		begin + `<mime-type type="text/x-t"><glob pattern="README"/><glob weight="no" pattern="*.x"/></mime-type>` + end:                                  "note.xml: strconv",
		begin + `<mime-type type="text/x-t">` + many(1000, `<glob pattern="*.x%d"/>`) + `<comment/></mime-type>` + end:                                    "",
		`<!DOCTYPE m [<!ENTITY a "` + strings.Repeat("b", 100) + `">]>` + begin + "<mime-type type=\"text/x-t\"><comment>&a;</comment></mime-type>" + end: "XML syntax error",
	} {
		m, pkg := mimePackage(t, info)
		left, err := Unexported("note", m, pkg)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, l := range left {
			texts = append(texts, filepath.Base(l.Path)+": "+l.Why.Error())
		}
		if got := strings.Join(texts, "\n"); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%.100s: left out %q, want %q", info, got, want)
		}
		root := t.TempDir()
		e := open(t, root)
		if err := errors.Join(e.Claim("note", m, pkg), e.Write("note", m, pkg), e.Remove("note")); err != nil {
			t.Errorf("%.100s: %v", info, err)
		}
		if got := files(t, root); got != "" {
			t.Errorf("%.100s: got %s left, want nothing", info, got)
		}
	}
}

// FuzzMimeCache: any types yield a cache whose strings and lists are inside of it.
func FuzzMimeCache(f *testing.F) {
	f.Add("application/x-a", "*.a", "b", "text/x-c", true)
	f.Add("text/x-ä", "*.ää", "lit", "", false)
	f.Fuzz(func(t *testing.T, name, pattern, literal, alias string, sensitive bool) {
		types := map[string]*mimeType{}
		for i, n := range []string{name, name + "x"} {
			types[n] = &mimeType{Type: n, Aliases: []typeRef{{alias}}, Parents: []typeRef{{name}}, Globs: []glob{{Pattern: pattern, Case: sensitive}, {Pattern: literal, Weight: i}}}
		}
		b := mimeCacheOf(slices.Collect(maps.Values(types)))
		if len(b)%4 != 0 || len(b) > 4096+64*(len(pattern)+len(literal)+len(name)+len(alias)) {
			t.Fatalf("got a cache of %d bytes, want a multiple of 4 and at most %d", len(b), 4096+64*(len(pattern)+len(literal)+len(name)+len(alias)))
		}
	})
}
