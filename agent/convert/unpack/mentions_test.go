package unpack

import (
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lull/lull/agent/convert"
)

// TestMentions: paths are found wherever the reader splits the content.
func TestMentions(t *testing.T) {
	long := "/opt/" + strings.Repeat("x", 300)
	text := "#!/bin/sh\n/usr/share/thing/a /usr/lib/b:/opt/c/ $X/usr/share/no ${X}/usr/share/no /home/usr/share/no '/usr' /usrlib/no /options/no\n" + long + "\n'/usr/share/end."
	// Programs of Qt have UTF-16.
	text += "\x00" + string(wide([]byte("x\n/usr/share/wide/x \n{/usr/share $/usr/share/no no/usr/share/no /opt/last")))
	want := []string{long[:maxMention], "/usr", "/opt/c", "/opt/last", "/usr/share", "/usr/share/wide/x", "/usr/lib/b", "/usr/share/end", "/usr/share/thing/a"}
	slices.Sort(want)
	for what, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		tree := NewTree(convert.NewWriter(io.Discard), DefaultLimits)
		for name, content := range map[string]string{"x": text, "y.txt": strings.TrimPrefix(text, "#"), "usr/share/doc/z": strings.ReplaceAll(text, "thing", "doc"), "e.py": "#"} {
			if err := tree.File(name, 0o755, int64(len(content)), wrap(strings.NewReader(content))); err != nil {
				t.Fatal(err)
			}
		}
		if got := slices.Sorted(maps.Keys(tree.Mentions)); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", what, got, want)
		}
	}
}
