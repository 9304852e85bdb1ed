package unpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/e2e/image"
)

// paths lists a tree: each path, with the target of a symlink.
func paths(t *unpack.Tree) string {
	var list []string
	for _, p := range t.Paths() {
		if n := t.Nodes[p]; n.Symlink != "" {
			p += ">" + n.Symlink
		}
		list = append(list, p)
	}
	return strings.Join(list, " ")
}

func zipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

// TestLayers: the files of an image are those of its layers, one over the other.
func TestLayers(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]byte
		want   string
	}{
		"a file over a file":           {[][]byte{image.Layer(image.File("a")), image.Layer(image.File("a"), image.File("b"))}, "a b"},
		"a whiteout":                   {[][]byte{image.Layer(image.File("d/a"), image.File("d/b")), image.Layer(image.File("d/.wh.a"))}, "d d/b"},
		"a whiteout of a directory":    {[][]byte{image.Layer(image.File("d/e/a"), image.File("b")), image.Layer(image.File(".wh.d"))}, "b"},
		"only of layers before":        {[][]byte{image.Layer(image.File("d/old")), image.Layer(image.File("d/new"), image.File(".wh.d"))}, "d d/new"},
		"not of the layer itself":      {[][]byte{image.Layer(image.File("d/.wh.a"), image.File("d/a"))}, "d d/a"},
		"not of a longer name":         {[][]byte{image.Layer(image.File("a"), image.File("ab")), image.Layer(image.File(".wh.a"))}, "ab"},
		"of nothing":                   {[][]byte{image.Layer(image.File("a")), image.Layer(image.File("x/.wh.y"))}, "a"},
		"an opaque directory":          {[][]byte{image.Layer(image.File("d/a"), image.File("e")), image.Layer(image.File("d/b"), image.File("d/.wh..wh..opq"))}, "d d/b e"},
		"an opaque root":               {[][]byte{image.Layer(image.File("d/a")), image.Layer(image.File(".wh..wh..opq"), image.File("b"))}, "b"},
		"of a symlink, not its target": {[][]byte{image.Layer(image.Dir("d"), image.File("d/a"), image.Symlink("l", "d")), image.Layer(image.File(".wh.l"))}, "d d/a"},
		"not through a symlink":        {[][]byte{image.Layer(image.File("d/a"), image.Symlink("l", "d")), image.Layer(image.File("l/.wh.a"))}, "d d/a l>d"},
		"a file over a directory":      {[][]byte{image.Layer(image.File("d/e/a")), image.Layer(image.File("d"))}, "d"},
		"a symlink over a directory":   {[][]byte{image.Layer(image.File("d/a"), image.File("e/b")), image.Layer(image.Symlink("d", "e"))}, "d>e e e/b"},
		"a directory over a symlink":   {[][]byte{image.Layer(image.File("e/b"), image.Symlink("d", "e")), image.Layer(image.Dir("d"), image.File("d/a"))}, "d d/a e e/b"},
		"a hard link to a layer":       {[][]byte{image.Layer(image.File("a")), image.Layer(image.Link("b", "a"))}, "a b"},
		"a hard link and a whiteout":   {[][]byte{image.Layer(image.File("a")), image.Layer(image.Link("b", "/a"), image.File(".wh.a"))}, "b"},
		"paths from the root":          {[][]byte{image.Layer(image.File("/app/x"), image.File("//y"))}, "app app/x y"},
		"an absolute symlink":          {[][]byte{image.Layer(image.File("usr/lib/a"), image.Symlink("lib", "usr/lib"), image.Symlink("x", "/lib/a"))}, "lib>usr/lib usr usr/lib usr/lib/a x>usr/lib/a"},
		"an empty layer":               {[][]byte{image.Layer(image.File("a")), image.Layer()}, "a"},
		"the same layer twice":         {[][]byte{image.Layer(image.File("a")), image.Layer(image.File("a"))}, "a"},
		"metadata of AUFS":             {[][]byte{image.Layer(image.File("a"), image.File(".wh..wh.plnk/x"), image.File(".wh..wh.aufs"))}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			for form, files := range map[string]map[string][]byte{
				"layout": image.Layout(image.Image{Layers: c.layers}), "plain": image.Layout(image.Image{Layers: c.layers, Plain: true}), "saved": image.Saved(image.Image{Layers: c.layers}),
			} {
				for suffix, content := range map[string][]byte{"": image.Pack(files), ".gz": zipped(image.Pack(files))} {
					tree, err := add(content)
					if err != nil {
						t.Fatalf("%s%s: %v", form, suffix, err)
					}
					if got := paths(tree); got != c.want {
						t.Errorf("%s%s: got %s, want %s", form, suffix, got, c.want)
					}
				}
			}
		})
	}
}

// TestImageConfiguration: the image for this machine counts, with its configuration.
func TestImageConfiguration(t *testing.T) {
	layers := [][]byte{image.Layer(image.File("a"))}
	wanted := image.Image{Layers: layers, Reference: "example.org/x/notes:1.5", Annotations: map[string]string{"a": "b"},
		Config: v1.Config{Entrypoint: []string{"/a"}, Cmd: []string{"c"}, Env: []string{"E=1"}, WorkingDir: "/w", Volumes: map[string]struct{}{"/v": {}}, Labels: map[string]string{"l": "m"}}}
	foreign := image.Image{Layers: [][]byte{image.Layer(image.File("foreign"))}, Arch: "s390x"}
	for form, files := range map[string]map[string][]byte{"layout": image.Layout(foreign, wanted), "saved": image.Saved(wanted, foreign)} {
		tree, err := add(image.Pack(files))
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		i := tree.Image
		if got := fmt.Sprint(i.Command, i.Environment, i.WorkingDir, i.Volumes, i.Labels, i.Reference); got != "[/a c] [E=1]/w[/v] map[l:m]example.org/x/notes:1.5" || paths(tree) != "a" {
			t.Errorf("%s: got %s and files %s, want %s and a", form, got, paths(tree), "[/a c] [E=1]/w[/v] map[l:m]example.org/x/notes:1.5")
		}
		if form == "layout" && i.Annotations["a"] != "b" {
			t.Errorf("layout: got annotations %v, want a=b", i.Annotations)
		}
	}
	// Archives that only resemble images are unpacked.
	for _, files := range []map[string][]byte{
		{"manifest.json": []byte(`{"name":"a web application"}`), "x": nil},
		{"manifest.json": []byte(`[]`)}, {"oci-layout": nil},
		merge(image.Layout(wanted), map[string][]byte{"lull.yaml": nil}),
	} {
		if tree, err := add(image.Pack(files)); err != nil || tree.Image != nil || len(tree.Nodes) < len(files) {
			t.Errorf("%v: got %+v (%v), want no image and all %d files", files, tree, err, len(files))
		}
	}
}

// without leaves out the members whose name has a part.
func without(files map[string][]byte, part string) map[string][]byte {
	maps.DeleteFunc(files, func(name string, _ []byte) bool { return strings.Contains(name, part) })
	return files
}

func merge(a, b map[string][]byte) map[string][]byte {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func TestImageRefused(t *testing.T) {
	of := func(layers ...[]byte) map[string][]byte { return image.Layout(image.Image{Layers: layers}) }
	good := image.Image{Layers: [][]byte{image.Layer(image.Program("a", "content"))}}
	// change replaces text in all members whose name has a part.
	change := func(files map[string][]byte, part, old, text string) map[string][]byte {
		all := maps.Clone(files)
		for name, content := range all {
			if strings.Contains(name, part) {
				all[name] = bytes.ReplaceAll(content, []byte(old), []byte(text))
			}
		}
		return all
	}
	bomb := image.Layer(image.Program("zeros", strings.Repeat("\x00", 2<<20)))
	padding := append(image.Layer(image.File("a")), make([]byte, 8<<20)...)
	large := image.Layer(image.Program("x", strings.Repeat("x", 600<<10)))
	many := make([]tar.Header, 0, 2100)
	for i := range 2100 {
		many = append(many, image.File(fmt.Sprint(".wh.f", i)))
	}
	var some, others []tar.Header
	for i := range 600 {
		some, others = append(some, image.File(fmt.Sprint("g", i))), append(others, image.File(fmt.Sprint("h", i)))
	}
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"a whiteout of the parent":       {of(image.Layer(image.File("d/.wh..."))), `the whiteout "d/.wh..." names no file`},
		"a whiteout of the directory":    {of(image.Layer(image.File("d/.wh.."))), `the whiteout "d/.wh.." names no file`},
		"a whiteout of nothing":          {of(image.Layer(image.File("d/.wh."))), `the whiteout "d/.wh." names no file`},
		"a whiteout outside":             {of(image.Layer(image.File("../.wh.etc"))), "leads out of the package"},
		"a path outside":                 {of(image.Layer(image.File("a/../../b"))), "leads out of the package"},
		"below a symlink of its layer":   {of(image.Layer(image.Symlink("l", "/etc"), image.File("l/passwd"))), `below the symlink "l"`},
		"below a symlink of another":     {of(image.Layer(image.Symlink("l", "/etc")), image.Layer(image.File("l/passwd"))), `layer 2: it has files below "l", which is no directory`},
		"below a file of another":        {of(image.Layer(image.File("l")), image.Layer(image.File("l/passwd"))), `layer 2: it has files below "l", which is no directory`},
		"a hard link outside":            {of(image.Layer(image.Link("a", "../../etc/shadow"))), "leads out of the package"},
		"a hard link to nothing":         {of(image.Layer(image.Link("a", "/etc/shadow"))), "is no file before it"},
		"a hard link to a symlink":       {of(image.Layer(image.Symlink("s", "/etc")), image.Layer(image.Link("a", "s"))), `leads to "s", which is no file`},
		"a hard link to a later layer":   {of(image.Layer(image.Link("a", "b")), image.Layer(image.File("b"))), "is no file before it"},
		"a bomb":                         {of(bomb), `more than 1048576 bytes of content, with "zeros"`},
		"a bomb of padding":              {of(padding), "it has more than 3145728 bytes"},
		"a bomb of duplicates":           {of(large, large), `layer 2: it has more than 1048576 bytes of content, with "x"`},
		"many whiteouts":                 {of(image.Layer(many...)), "more than 1000 entries"},
		"many entries in several layers": {of(image.Layer(some...), image.Layer(others...)), "layer 2: it has more than 1000 entries"},
		"a reserved path":                {of(image.Layer(image.File(".lull/x"))), "is reserved"},
		"another content of a blob":      {change(image.Layout(image.Image{Layers: good.Layers, Plain: true}), "blobs/", "content", "c0ntent"), "and the image names sha256:"},
		"another configuration":          {change(image.Layout(good), "blobs/", `"rootfs"`, `"r00tfs"`), "has the digest sha256:"},
		"another digest of a layer":      {change(image.Saved(good), "layer.tar", "content", "c0ntent"), "layer 1: its content has the digest sha256:"},
		"another saved configuration":    {change(image.Saved(good), ".json", `"rootfs"`, `"r00tfs"`), "has the digest sha256:"},
		"a digest of another kind":       {change(image.Layout(good), "index.json", "sha256:", "md5:"), "its index: "},
		"a digest with a path":           {change(image.Layout(good), "index.json", "sha256:", "sha256:../"), "its index: "},
		"a missing layer":                {without(image.Saved(good), "layer.tar"), "layer 1: its archive has no"},
		"a missing blob":                 {without(image.Layout(good), "blobs/"), "its archive has no"},
		"another machine":                {image.Layout(image.Image{Layers: good.Layers, Arch: "s390x"}), "it has no image for linux/"},
		"several images":                 {image.Layout(image.Image{Layers: good.Layers, Reference: "one"}, image.Image{Layers: [][]byte{image.Layer(image.File("b"))}, Reference: "two"}), `("one", "two"), and an archive with one is wanted`},
		"no layers":                      {image.Layout(image.Image{}), "without layers"},
		"another type of layer":          {image.Layout(image.Image{Layers: good.Layers, LayerType: "application/wasm"}), "it is no image of files"},
		"a deep index":                   {image.Nest(image.Layout(good), 5), "its index is too large or too deep"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := add(image.Pack(c.files))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	twice := image.Layer(image.File("oci-layout"), image.Program("index.json", "{}"), image.Program("index.json", "{}"))
	if _, err := add(twice); err == nil || !strings.Contains(err.Error(), `"index.json" twice`) {
		t.Errorf("two indices: got %v; want an error and %q in the error", err, `"index.json" twice`)
	}
	loop := image.Layer(image.File("oci-layout"), image.Symlink("index.json", "x"), image.Symlink("x", "index.json"))
	if _, err := add(loop); err == nil || !strings.Contains(err.Error(), "too many links") {
		t.Errorf("a loop of links: got %v; want an error and %q in the error", err, "too many links")
	}
}
