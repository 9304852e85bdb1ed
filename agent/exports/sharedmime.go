package exports

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/lull/lull/agent/lib/durable"
)

// MIME types of packages follow the Shared MIME-info Database specification 0.21. A package
// adds types that neither the system nor another instance has, with their names, file name
// patterns, aliases and generic icons. Magic, XML namespaces, and patterns that the system or
// another instance has are dropped: they would change the types of files of others.

// mimeDir has a file for each type, the cache of all of them, and a list of their names, without
// which Qt takes none of them from the cache.
const (
	mimeDir    = "share/mime"
	typesCache = mimeDir + "/mime.cache"
	typesList  = mimeDir + "/types"
	mimeInfoNS = "http://www.freedesktop.org/standards/shared-mime-info"
)

// The bounds of the types of a package.
const (
	maxMimeFile = 1 << 20
	maxTypes    = 200
	maxOfType   = 200 // elements of one kind of a type
	maxWeight   = 50  // of a pattern; the system's default
)

var (
	typeName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(application|audio|font|image|message|model|text|video)/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$`)
	})
	literal  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[^*?\[\]\\/\x00-\x20\x7f]{1,64}$`) })
	iconName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`) })
)

// mimeType is a MIME type.
type mimeType struct {
	XMLName  xml.Name `xml:"mime-type"`
	NS       string   `xml:"xmlns,attr,omitempty"`
	Type     string   `xml:"type,attr"`
	Comments []struct {
		Lang string `xml:"http://www.w3.org/XML/1998/namespace lang,attr,omitempty"`
		Text string `xml:",chardata"`
	} `xml:"comment"`
	Parents []typeRef `xml:"sub-class-of"`
	Aliases []typeRef `xml:"alias"`
	Icon    *struct {
		Name string `xml:"name,attr"`
	} `xml:"generic-icon"`
	Globs []glob `xml:"glob"`
}

type typeRef struct {
	Type string `xml:"type,attr"`
}

// glob is a file name pattern of a type.
type glob struct {
	Pattern string `xml:"pattern,attr"`
	Weight  int    `xml:"weight,attr,omitempty"` // 0 means maxWeight
	Case    bool   `xml:"case-sensitive,attr,omitempty"`
}

// isType reports whether an exported file is that of a MIME type.
func isType(name string) bool {
	return strings.HasPrefix(name, mimeDir+"/") && name != typesCache && name != typesList
}

func parseType(content []byte) (*mimeType, error) {
	t := new(mimeType)
	if err := xml.Unmarshal(content, t); err != nil {
		return nil, err
	}
	return t, nil
}

// mimeTypes adds the MIME types of the package.
func (p *planner) mimeTypes() {
	var patterns, aliases map[string]bool // of the system and of other instances
	for _, share := range shareDirs {
		for _, u := range p.list(share+"/mime/packages", ".xml") {
			if patterns == nil {
				patterns, aliases = p.takenPatterns()
			}
			content, err := readInside(p.pkg, u.path())
			var info struct {
				XMLName xml.Name   `xml:"mime-info"`
				Types   []mimeType `xml:"mime-type"`
			}
			if err == nil && len(content) > maxMimeFile {
				err = fmt.Errorf("it has more than %d bytes", maxMimeFile)
			}
			if err == nil {
				err = xml.Unmarshal(content, &info)
			}
			if err == nil && len(info.Types)+len(p.types) > maxTypes {
				err = fmt.Errorf("the package has more than %d MIME types", maxTypes)
			}
			if err != nil {
				p.leave(u.path(), err)
				continue
			}
			for i := range info.Types {
				p.mimeType(u, &info.Types[i], patterns, aliases)
			}
		}
	}
}

// mimeType adds one MIME type, unless the system or another instance has it.
func (p *planner) mimeType(u usual, t *mimeType, patterns, aliases map[string]bool) {
	if !typeName().MatchString(t.Type) {
		p.leave(u.path(), fmt.Errorf("%.140q is no MIME type of files", t.Type))
		return
	}
	if p.systemHas("mime/"+t.Type+".xml") || aliases[t.Type] {
		return // the system's is the same type
	}
	clean := &mimeType{NS: mimeInfoNS, Type: t.Type}
	for _, c := range t.Comments[:min(len(t.Comments), maxOfType)] {
		c.Text = strings.Join(strings.Fields(c.Text), " ")
		if len(c.Text) <= 200 && len(c.Lang) <= 20 {
			clean.Comments = append(clean.Comments, c)
		}
	}
	for _, r := range t.Parents[:min(len(t.Parents), maxOfType)] {
		if typeName().MatchString(r.Type) {
			clean.Parents = append(clean.Parents, r)
		}
	}
	for _, r := range t.Aliases[:min(len(t.Aliases), maxOfType)] {
		if typeName().MatchString(r.Type) && !aliases[r.Type] && !p.systemHas("mime/"+r.Type+".xml") {
			clean.Aliases = append(clean.Aliases, r)
		}
	}
	if t.Icon != nil && iconName().MatchString(t.Icon.Name) {
		clean.Icon = t.Icon
	}
	for _, g := range t.Globs[:min(len(t.Globs), maxOfType)] {
		rest, suffix := strings.CutPrefix(g.Pattern, "*.")
		if !literal().MatchString(rest) || !suffix && (len(rest) < 3 || matched(patterns, rest)) || patterns[strings.ToLower(g.Pattern)] {
			p.leave(u.path(), fmt.Errorf("the pattern %.80q of %s: it is the system's or another application's, or too general", g.Pattern, t.Type))
			continue
		}
		if g.Weight <= 0 || g.Weight > maxWeight {
			g.Weight = maxWeight
		}
		clean.Globs = append(clean.Globs, g)
	}
	content, err := xml.MarshalIndent(clean, "", "  ")
	if err != nil {
		p.leave(u.path(), err)
		return
	}
	p.types[strings.ReplaceAll(t.Type, "/", "-")] = true
	p.put(mimeDir+"/"+t.Type+".xml", u, func([]byte) ([]byte, error) { return append([]byte(xml.Header), append(content, '\n')...), nil })
}

// matched reports whether one of the patterns matches a file name.
func matched(patterns map[string]bool, name string) bool {
	for p := range patterns {
		if ok, err := path.Match(p, strings.ToLower(name)); ok && err == nil {
			return true
		}
	}
	return false
}

// systemHas reports whether the system has a shared file.
func (p *planner) systemHas(name string) bool {
	return slices.ContainsFunc(p.system, func(dir string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// takenPatterns returns the patterns, in lower case, and the aliases of the system and of the
// other instances.
func (p *planner) takenPatterns() (patterns, aliases map[string]bool) {
	patterns, aliases = map[string]bool{}, map[string]bool{}
	for _, dir := range p.system {
		globs, err := os.ReadFile(filepath.Join(dir, "mime/globs2"))
		if err != nil {
			continue
		}
		for l := range bytes.Lines(globs) { // WEIGHT:TYPE:PATTERN[:FLAGS]
			if f := strings.Split(strings.TrimSpace(string(l)), ":"); len(f) > 2 {
				patterns[strings.ToLower(f[2])] = true
			}
		}
		names, _ := os.ReadFile(filepath.Join(dir, "mime/aliases"))
		for l := range bytes.Lines(names) { // ALIAS TYPE
			name, _, _ := strings.Cut(string(l), " ")
			aliases[name] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for file, t := range p.shared {
		if p.owners[file] == p.instance {
			continue
		}
		for _, g := range t.Globs {
			patterns[strings.ToLower(g.Pattern)] = true
		}
		for _, a := range t.Aliases {
			aliases[a.Type] = true
		}
	}
	return patterns, aliases
}

// setTypeLocked remembers the type of an exported file, or forgets it.
func (e *Exports) setTypeLocked(name string, content []byte) {
	if !isType(name) {
		return
	}
	t, err := parseType(content)
	if err != nil {
		delete(e.shared, name)
		return
	}
	e.shared[name] = t
}

// writeTypes updates the list of types and mime.cache, in this order: Qt reads both when
// mime.cache has changed. The caller holds e.cache.
func (e *Exports) writeTypes() error {
	e.mu.Lock()
	var types []*mimeType
	var names []string
	for _, t := range e.shared {
		types = append(types, t)
		names = append(names, t.Type+"\n")
	}
	e.mu.Unlock()
	if len(types) == 0 {
		return errors.Join(e.writeShared(typesList, nil), e.writeShared(typesCache, nil))
	}
	slices.Sort(names)
	return errors.Join(e.writeShared(typesList, []byte(strings.Join(names, ""))), e.writeShared(typesCache, mimeCacheOf(types)))
}

// writeShared writes a file that belongs to no instance, if its content changes. Content nil
// removes it.
func (e *Exports) writeShared(name string, content []byte) error {
	old, err := os.ReadFile(e.path(name))
	switch {
	case err == nil && content != nil && bytes.Equal(old, content), errors.Is(err, fs.ErrNotExist) && content == nil:
		return nil
	case content == nil:
		return durable.Remove(e.path(name))
	}
	return durable.WriteFile(e.path(name), content, 0o644)
}

// mimeCacheOf writes a cache without magic and namespaces, in the format of
// update-mime-database(1), version 1.2: lists in big-endian words, whose strings are offsets.
func mimeCacheOf(types []*mimeType) []byte {
	slices.SortFunc(types, func(a, b *mimeType) int { return strings.Compare(a.Type, b.Type) })
	const lists = 9
	c := &cache{b: make([]byte, 4+4*lists), strings: map[string]uint32{}}
	binary.BigEndian.PutUint16(c.b, 1)
	binary.BigEndian.PutUint16(c.b[2:], 2)
	var aliases, parents, literals, icons [][]uint32
	var suffixes []suffix
	order := map[uint32]string{} // of the strings of sorted lists
	name := func(s string) uint32 {
		at := c.text(s)
		order[at] = s
		return at
	}
	for _, t := range types {
		own := name(t.Type)
		for _, a := range t.Aliases {
			aliases = append(aliases, []uint32{name(a.Type), own})
		}
		if len(t.Parents) > 0 {
			list := []uint32{uint32(len(t.Parents))}
			for _, r := range t.Parents {
				list = append(list, name(r.Type))
			}
			parents = append(parents, []uint32{own, c.words(list...)})
		}
		if t.Icon != nil {
			icons = append(icons, []uint32{own, name(t.Icon.Name)})
		}
		for _, g := range t.Globs {
			weight := uint32(cmp.Or(g.Weight, maxWeight))
			pattern := g.Pattern
			if g.Case {
				weight |= 0x100
			} else {
				pattern = strings.ToLower(pattern)
			}
			if rest, ok := strings.CutPrefix(pattern, "*"); ok {
				suffixes = append(suffixes, suffix{[]rune(rest), own, weight})
			} else {
				literals = append(literals, []uint32{name(pattern), own, weight})
			}
		}
	}
	list := func(entries [][]uint32) uint32 {
		slices.SortStableFunc(entries, func(a, b []uint32) int { return strings.Compare(order[a[0]], order[b[0]]) })
		return c.words(append([]uint32{uint32(len(entries))}, slices.Concat(entries...)...)...)
	}
	n, first := c.tree(suffixes)
	for i, at := range []uint32{list(aliases), list(parents), list(literals), c.words(n, first), c.words(0), c.words(0, 0, uint32(len(c.b))), c.words(0), c.words(0), list(icons)} {
		binary.BigEndian.PutUint32(c.b[4+4*i:], at)
	}
	return c.b
}

// cache is a mime.cache that is being written.
type cache struct {
	b       []byte
	strings map[string]uint32
}

// text returns the offset of a string.
func (c *cache) text(s string) uint32 {
	at, ok := c.strings[s]
	if !ok {
		at = uint32(len(c.b))
		c.b = append(append(c.b, s...), 0)
		for len(c.b)%4 != 0 {
			c.b = append(c.b, 0)
		}
		c.strings[s] = at
	}
	return at
}

// words returns the offset of words.
func (c *cache) words(words ...uint32) uint32 {
	at := uint32(len(c.b))
	for _, w := range words {
		c.b = binary.BigEndian.AppendUint32(c.b, w)
	}
	return at
}

// suffix is a pattern without its '*'.
type suffix struct {
	text   []rune
	typ    uint32 // offset
	weight uint32 // with the flag of case
}

// tree writes the nodes of a reverse suffix tree, whose edges are the characters from the end,
// and returns their number and offset.
func (c *cache) tree(list []suffix) (n, first uint32) {
	var leaves [][]uint32
	children := map[rune][]suffix{}
	for _, s := range list {
		if len(s.text) == 0 {
			leaves = append(leaves, []uint32{0, s.typ, s.weight})
			continue
		}
		last := len(s.text) - 1
		children[s.text[last]] = append(children[s.text[last]], suffix{s.text[:last], s.typ, s.weight})
	}
	nodes := leaves
	var edges []rune
	for r := range children {
		edges = append(edges, r)
	}
	slices.Sort(edges)
	for _, r := range edges {
		n, first := c.tree(children[r])
		nodes = append(nodes, []uint32{uint32(r), n, first})
	}
	return uint32(len(nodes)), c.words(slices.Concat(nodes...)...)
}
