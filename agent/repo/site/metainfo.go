package site

import (
	"bytes"
	"encoding/xml"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The bounds of what the page takes from AppStream metadata.
const (
	maxMetainfo = 1 << 20 // bytes
	maxText     = 600     // bytes of a line
	maxBlock    = 8 << 10 // bytes of a paragraph
	maxBlocks   = 60
	maxReleases = 20
	maxScreens  = 8
)

// local is a text in the languages that a package has. "" is the untranslated one.
type local map[string]string

// in returns the text in a language, or else the untranslated one.
func (l local) in(language string) string {
	if s := l[language]; s != "" {
		return s
	}
	return l[""]
}

// block is a paragraph or an item of a list.
type block struct {
	item bool
	text local
}

// Block is a block in one language.
type Block struct {
	Item bool
	Text string
}

// blocks returns the blocks of a language.
func blocks(list []block, language string) (out []Block) {
	for _, b := range list {
		if t := b.text.in(language); t != "" {
			out = append(out, Block{b.item, t})
		}
	}
	return out
}

// release is a version in AppStream metadata.
type release struct {
	version string
	date    time.Time
	notes   []block
}

// shot is a screenshot in AppStream metadata.
type shot struct {
	caption local
	url     string // http or https, or ""
	name    string // of its file
}

// metainfo is what the page takes from AppStream metadata (AppStream specification, "Upstream
// Metadata").
type metainfo struct {
	desktop       bool // an application with windows
	id            string
	name, summary local
	description   []block
	developer     local
	license       string
	urls          map[string]string // type → http or https address
	categories    []string
	releases      []release
	shots         []shot
}

type xmlText struct {
	Lang string `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
	Body string `xml:",chardata"`
}

type xmlInner struct {
	Lang  string `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
	Inner []byte `xml:",innerxml"`
}

type xmlComponent struct {
	XMLName   xml.Name  `xml:"component"`
	Type      string    `xml:"type,attr"`
	ID        string    `xml:"id"`
	Name      []xmlText `xml:"name"`
	Summary   []xmlText `xml:"summary"`
	License   string    `xml:"project_license"`
	Developer []xmlText `xml:"developer>name"`
	OldName   []xmlText `xml:"developer_name"`
	URLs      []struct {
		Type string `xml:"type,attr"`
		Body string `xml:",chardata"`
	} `xml:"url"`
	Categories  []string   `xml:"categories>category"`
	Description []xmlInner `xml:"description"`
	Releases    []struct {
		Version     string     `xml:"version,attr"`
		Date        string     `xml:"date,attr"`
		Description []xmlInner `xml:"description"`
	} `xml:"releases>release"`
	Screenshots []struct {
		Caption []xmlText `xml:"caption"`
		Images  []struct {
			Type string `xml:"type,attr"`
			Body string `xml:",chardata"`
		} `xml:"image"`
	} `xml:"screenshots>screenshot"`
}

// parseMetainfo reads AppStream metadata.
func parseMetainfo(data []byte) (*metainfo, error) {
	var x xmlComponent
	if err := xml.Unmarshal(data, &x); err != nil {
		return nil, err
	}
	m := &metainfo{
		desktop: x.Type == "desktop-application" || x.Type == "desktop",
		id:      oneLine(x.ID), name: localOf(x.Name), summary: localOf(x.Summary), license: oneLine(x.License),
		developer: localOf(append(x.Developer, x.OldName...)), description: blocksOf(x.Description), urls: map[string]string{},
	}
	for _, u := range x.URLs {
		if a := webAddress(u.Body); a != "" && m.urls[u.Type] == "" {
			m.urls[u.Type] = a
		}
	}
	for _, c := range x.Categories {
		if c = oneLine(c); isWord(c) && !slices.Contains(m.categories, c) && len(m.categories) < 20 {
			m.categories = append(m.categories, c)
		}
	}
	for _, r := range x.Releases[:min(len(x.Releases), maxReleases)] {
		date, _ := time.Parse(time.DateOnly, strings.TrimSpace(r.Date)) // none is shown otherwise
		m.releases = append(m.releases, release{oneLine(r.Version), date, blocksOf(r.Description)})
	}
	for _, s := range x.Screenshots[:min(len(x.Screenshots), maxScreens)] {
		for _, i := range s.Images {
			if i.Type == "thumbnail" {
				continue
			}
			address := strings.TrimSpace(i.Body)
			m.shots = append(m.shots, shot{localOf(s.Caption), webAddress(address), address[strings.LastIndexByte(address, '/')+1:]})
			break
		}
	}
	return m, nil
}

func isWord(s string) bool {
	return s != "" && len(s) < 64 && !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsLetter(r) && r != '-' })
}

// webAddress returns an http or https address, or "" for anything else.
func webAddress(s string) string {
	s = strings.TrimSpace(s)
	u, err := url.Parse(s)
	if err != nil || len(s) > 1000 || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	return u.String()
}

func localOf(list []xmlText) local {
	l := local{}
	for _, t := range list {
		if lang := languageOf(t.Lang); l[lang] == "" {
			l[lang] = oneLine(t.Body)
		}
	}
	return l
}

// languageOf returns the language of a locale such as de_DE.UTF-8. Other regions and scripts,
// such as en@shaw, remain what they are, which no page has.
func languageOf(locale string) string {
	locale, _, _ = strings.Cut(strings.ReplaceAll(locale, "-", "_"), ".")
	language, region, _ := strings.Cut(locale, "_")
	switch {
	case locale == "C":
		return ""
	case strings.EqualFold(language, region), locale == "en_US":
		return language
	}
	return locale
}

// blocksOf reads the markup of descriptions. A paragraph in a language belongs to the one
// before it without a language. A whole description in a language is the translation of the
// one without, block by block.
func blocksOf(list []xmlInner) (out []block) {
	for _, d := range list {
		next := -1
		if lang := languageOf(d.Lang); lang != "" {
			next = 0
			for _, b := range readBlocks(d.Inner) {
				if next < len(out) {
					out[next].text[lang] = b.text[""]
					next++
				}
			}
			continue
		}
		if len(out) == 0 {
			out = readBlocks(d.Inner)
		}
	}
	return out
}

func readBlocks(inner []byte) (out []block) {
	dec := xml.NewDecoder(bytes.NewReader(inner))
	var text strings.Builder
	lang, item, inside := "", false, false
	for {
		token, err := dec.Token()
		if err != nil {
			return out
		}
		switch e := token.(type) {
		case xml.StartElement:
			if e.Name.Local == "p" || e.Name.Local == "li" {
				text.Reset()
				lang, item, inside = "", e.Name.Local == "li", true
				for _, a := range e.Attr {
					if a.Name.Local == "lang" {
						lang = languageOf(a.Value)
					}
				}
			}
		case xml.EndElement:
			if e.Name.Local != "p" && e.Name.Local != "li" || !inside {
				continue
			}
			inside = false
			words := cut(clean(strings.Join(strings.Fields(text.String()), " ")), maxBlock)
			switch {
			case words == "":
			case lang == "" && len(out) < maxBlocks:
				out = append(out, block{item, local{"": words}})
			case lang != "" && len(out) > 0 && out[len(out)-1].text[lang] == "":
				out[len(out)-1].text[lang] = words
			}
		case xml.CharData:
			if inside && text.Len() < 2*maxBlock {
				text.Write(e)
			}
		}
	}
}

// oneLine makes a short line of a text of a package.
func oneLine(s string) string {
	return cut(clean(strings.Join(strings.Fields(s), " ")), maxText)
}

// clean removes what is not shown: control characters, and those that change the direction of
// the text after them.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x61c, r == 0xfeff:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
}

// cut shortens a text to n bytes, with an ellipsis.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.TrimSpace(s[:n]) + "…"
}
