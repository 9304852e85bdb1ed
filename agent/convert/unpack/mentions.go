package unpack

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// The bounds of the absolute paths that are collected from programs.
const (
	maxMentions    = 20_000
	maxMention     = 255 // characters; longer ones are cut off
	mentionOverlap = 2 * (maxMention + 1)
)

const elfMagic = "\x7fELF"

// mentionPrefixes begin paths at which a program may look for parts of its package.
// "/usr" alone is the prefix of programs that put their paths together at run time.
var mentionPrefixes = [][]byte{[]byte("/usr"), []byte("/opt/"), []byte("/etc/")}

const usr = "/usr" // as long as /opt and /etc

// codeExtensions are those of files that programs read as code.
var codeExtensions = []string{".py", ".pl", ".pm", ".rb", ".lua", ".tcl", ".sh", ".conf"}

// mentions collects the absolute paths in the content of a program, library or script, which
// is written to it in pieces.
type mentions struct {
	tree  *Tree
	code  bool   // the extension is that of code
	begun bool   // the type of the file is known
	skip  bool   // it is another type of file
	cut   bool   // tail is not the whole content: its first byte has been scanned with the one before
	tail  []byte // the end of what was written, which may be the beginning of a path
}

func (t *Tree) mentionsIn(p string) *mentions {
	skip := strings.HasPrefix(p, "usr/share/doc/") || strings.HasPrefix(p, "usr/share/man/") || strings.HasPrefix(p, "usr/share/lintian/")
	return &mentions{tree: t, code: slices.Contains(codeExtensions, path.Ext(p)), skip: skip}
}

// Write implements io.Writer.
func (m *mentions) Write(b []byte) (int, error) {
	if m.skip {
		return len(b), nil
	}
	n, all := len(b), append(m.tail, b...)
	if !m.begun {
		if m.begun = len(all) >= len(elfMagic); !m.begun {
			m.tail = all
			return n, nil
		}
		m.skip = !m.code && !bytes.HasPrefix(all, []byte(elfMagic)) && !bytes.HasPrefix(all, []byte("#!"))
	}
	m.scan(all, false)
	cut := max(0, len(all)-mentionOverlap)
	m.cut = m.cut || cut > 0
	m.tail = append([]byte(nil), all[cut:]...)
	return n, nil
}

// end scans what may have been incomplete.
func (m *mentions) end() {
	if m.begun && !m.skip {
		m.scan(m.tail, true)
	}
}

// scan collects the paths of a text in ASCII and in UTF-16, which Qt's programs have. Unless it
// is the last one, a path that reaches its end is left to the next call.
func (m *mentions) scan(text []byte, last bool) {
	for _, prefix := range mentionPrefixes {
		m.scanFor(text, prefix, 1, last)
		m.scanFor(text, wide(prefix), 2, last)
	}
}

// wide is an ASCII text in UTF-16, little-endian.
func wide(text []byte) (w []byte) {
	for _, b := range text {
		w = append(w, b, 0)
	}
	return w
}

// scanFor collects the paths that begin with a prefix; a character has width bytes.
func (m *mentions) scanFor(text, prefix []byte, width int, last bool) {
	at := func(i int) byte { // the character there; 0 if it is none of a path
		if i < 0 || i+width > len(text) || width == 2 && text[i+1] != 0 {
			return 0
		}
		return text[i]
	}
	for from := 0; ; {
		begin := bytes.Index(text[from:], prefix)
		if begin < 0 {
			return
		}
		begin += from
		end := begin + len(prefix)
		for end-begin < maxMention*width && pathByte(at(end)) {
			end += width
		}
		from = end
		before := at(begin - width)
		if begin < width && m.cut || pathByte(before) || before == '}' || before == '$' || end+width > len(text) && end-begin < maxMention*width && !last {
			continue // a part of a longer path, or incomplete
		}
		found := text[begin:end]
		if width == 2 {
			found = bytes.ReplaceAll(found, []byte{0}, nil)
		}
		if len(m.tree.Mentions) < maxMentions && (len(found) == len(usr) || found[len(usr)] == '/') {
			m.tree.Mentions[strings.TrimRight(string(found), "/.")] = true
		}
	}
}

// pathByte reports whether a byte continues a path.
func pathByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("._-+/@", b) >= 0
}
