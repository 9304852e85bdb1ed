package strictyaml

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/lull/lull/agent/lib/errkind"
)

// Only this file uses the YAML library, which is no longer maintained: it
// returns a tree of our own nodes.

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

type kind int

const (
	scalar kind = iota
	mapping
	sequence
)

func (k kind) String() string {
	return [...]string{errkind.Text("a single value"), errkind.Text("a mapping"), errkind.Text("a list")}[k] // known to be messages
}

// node is one value of a document. A mapping keeps the order of its keys.
type node struct {
	kind  kind
	tag   string // of a scalar: str, int, float, bool, null, timestamp
	text  string
	line  int
	keys  []*node
	items []*node // values of a mapping, elements of a list
}

var syntaxLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: line (\d+): (.*)$`) })

// parse reads the only document of data; an empty file yields nil.
func parse(name string, data []byte) (n *node, err error) {
	fail := func(line int, format string, args ...any) (*node, error) {
		return nil, Errors{newError(name, line, format, args...)}
	}
	if len(data) > MaxSize {
		return fail(0, "cannot read %d bytes of YAML: the limit is %d", len(data), MaxSize)
	}
	if line := firstBadLine(data); line > 0 {
		return fail(line, "cannot read YAML: the line is not plain UTF-8 text")
	}
	// The library panics on some malformed input; to the reader of the file
	// that is a syntax error like any other.
	defer func() {
		if p := recover(); p != nil {
			n, err = fail(0, "cannot read YAML: %v", p)
		}
	}()
	syntax := func(err error) (*node, error) {
		text, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
		if m := syntaxLine().FindStringSubmatch(err.Error()); m != nil {
			line, _ = strconv.Atoi(m[1])
			text = m[2]
		}
		text, _, _ = strings.Cut(text, "\n")
		return fail(max(line, 1), "cannot read YAML: %s", text)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return syntax(err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return fail(second.Line, "cannot use a second document in one file")
	case !errors.Is(err, io.EOF):
		return syntax(err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	var bad Errors
	n = convert(name, doc.Content[0], &bad)
	if err := sorted(bad); err != nil {
		return nil, err
	}
	if n.kind == scalar && n.tag == "null" {
		return nil, nil
	}
	return n, nil
}

// firstBadLine finds what a terminal or a log should never be shown: text that
// is not UTF-8, and control characters. 0 means none.
func firstBadLine(data []byte) int {
	line := 1
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		switch {
		case r == '\n':
			line++
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\t' && r != '\r', r >= 0x7f && r < 0xa0:
			return line
		}
		i += n
	}
	return 0
}

var plainTags = map[string]string{
	"!!str": "str", "!!int": "int", "!!float": "float", "!!bool": "bool",
	"!!null": "null", "!!timestamp": "timestamp", "!!merge": "str",
}

// convert turns the library's tree into ours and collects what is refused.
func convert(name string, y *yaml.Node, bad *Errors) *node {
	refuse := func(line int, format string, args ...any) {
		*bad = append(*bad, newError(name, line, format, args...))
	}
	n := &node{line: y.Line, text: y.Value}
	if y.Anchor != "" && y.Kind != yaml.AliasNode {
		refuse(y.Line, "cannot use the anchor &%s: write the value where it is needed", y.Anchor)
	}
	switch y.Kind {
	case yaml.AliasNode:
		refuse(y.Line, "cannot use the alias *%s: write the value where it is needed", y.Value)
	case yaml.ScalarNode:
		tag, ok := plainTags[y.ShortTag()]
		if !ok {
			refuse(y.Line, "cannot use the tag %s", y.ShortTag())
		}
		n.tag = tag
	case yaml.SequenceNode:
		n.kind = sequence
		if y.ShortTag() != "!!seq" {
			refuse(y.Line, "cannot use the tag %s", y.ShortTag())
		}
		for _, c := range y.Content {
			n.items = append(n.items, convert(name, c, bad))
		}
	case yaml.MappingNode:
		n.kind = mapping
		if y.ShortTag() != "!!map" {
			refuse(y.Line, "cannot use the tag %s", y.ShortTag())
		}
		seen := map[string]int{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			k := convert(name, y.Content[i], bad)
			if k.kind != scalar {
				refuse(k.line, "cannot use %s as a key", k.kind)
				continue
			}
			if first, again := seen[k.text]; again {
				refuse(k.line, "cannot set %s twice: it is set in line %d", k.text, first)
				continue
			}
			seen[k.text] = k.line
			n.keys = append(n.keys, k)
			n.items = append(n.items, convert(name, y.Content[i+1], bad))
		}
	default:
		refuse(y.Line, "cannot read YAML: unknown construct")
	}
	return n
}
