package derive

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"io"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// component is the relevant part of AppStream metadata (AppStream specification, "Upstream
// Metadata"). Elements with a language are left out.
type component struct {
	ID      string
	Name    string
	Summary string
	License string
	release []release // the newest first, as the file has them
}

type release struct {
	Version string
	Text    string
}

type text struct {
	Lang string `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
	Body string `xml:",chardata"`
}

type metainfo struct {
	XMLName  xml.Name `xml:"component"`
	Type     string   `xml:"type,attr"`
	ID       string   `xml:"id"`
	Name     []text   `xml:"name"`
	Summary  []text   `xml:"summary"`
	License  string   `xml:"project_license"`
	Releases []struct {
		Version     string `xml:"version,attr"`
		Description struct {
			Inner []byte `xml:",innerxml"`
		} `xml:"description"`
	} `xml:"releases>release"`
}

// component reads the first usable metadata of an application, or else the first of another
// part, such as an addon.
func (d *deriver) component() {
	for _, p := range d.tree.Paths() {
		n := d.tree.Nodes[p]
		if n.Kept == nil || !strings.HasSuffix(p, ".xml") {
			continue
		}
		var m metainfo
		if err := xml.Unmarshal(n.Kept, &m); err != nil {
			d.tree.Remark("%s: this AppStream metadata cannot be read: %s", p, line(err.Error()))
			continue
		}
		c := &component{ID: line(m.ID), Name: plain(m.Name), Summary: plain(m.Summary), License: line(m.License)}
		for _, r := range m.Releases {
			c.release = append(c.release, release{line(r.Version), paragraphs(r.Description.Inner)})
		}
		if m.Type == "desktop-application" || m.Type == "desktop" {
			d.stream = c
			return
		}
		if d.stream == nil {
			d.stream = c
		}
	}
}

// plain returns the text without a language.
func plain(list []text) string {
	for _, t := range list {
		if t.Lang == "" {
			return line(t.Body)
		}
	}
	return ""
}

// paragraphs converts the markup of a description to lines.
func paragraphs(inner []byte) string {
	dec := xml.NewDecoder(bytes.NewReader(inner))
	var b strings.Builder
	skip := 0
	for {
		token, err := dec.Token()
		if err != nil {
			return notes(b.String())
		}
		switch e := token.(type) {
		case xml.StartElement:
			if skip > 0 || translated(e) {
				skip++
			} else if e.Name.Local == "li" {
				b.WriteString("- ")
			}
		case xml.EndElement:
			if skip > 0 {
				skip--
			} else if e.Name.Local == "p" || e.Name.Local == "li" {
				b.WriteByte('\n')
			}
		case xml.CharData:
			if words := strings.Fields(string(e)); skip == 0 && len(words) > 0 {
				b.WriteString(strings.Join(words, " "))
			}
		}
	}
}

func translated(e xml.StartElement) bool {
	for _, a := range e.Attr {
		if a.Name.Local == "lang" {
			return true
		}
	}
	return false
}

// newest returns the newest release of the AppStream metadata, or nil.
func (d *deriver) newest() *release {
	if d.stream == nil || len(d.stream.release) == 0 {
		return nil
	}
	return &d.stream.release[0]
}

func (d *deriver) releaseNotes() string {
	if r := d.newest(); r != nil {
		return r.Text
	}
	return ""
}

// signedOff is the last line of an entry of a Debian changelog (deb-changelog(5)).
var signedOff = regexp.MustCompile(`(?m)^ -- .*$`)

// changelog returns the newest entry of changelog.Debian. Of Debian packages, only the first,
// which names the whole, counts.
func (d *deriver) changelog() string {
	own := ""
	if d.tree.Control != nil {
		own = path.Join("usr/share/doc", d.tree.Control["Package"]) + "/"
	}
	for _, p := range d.tree.Paths() {
		n := d.tree.Nodes[p]
		if n.Kept == nil || !strings.HasPrefix(p, own) || !strings.Contains(p, "/changelog.Debian") {
			continue
		}
		content := n.Kept
		if strings.HasSuffix(p, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(content))
			if err != nil {
				continue
			}
			// Its end may be damaged or missing: the newest entry is at its beginning.
			content, _ = io.ReadAll(io.LimitReader(z, 4*maxNotes))
		}
		entry := string(content)
		if at := signedOff.FindStringIndex(entry); at != nil {
			entry = entry[:at[0]]
		}
		_, body, _ := strings.Cut(entry, "\n") // after the line with package and version
		return notes(body)
	}
	return ""
}

// notes bounds a text of several lines.
func notes(s string) string {
	s = strings.TrimSpace(clean(strings.ToValidUTF8(s, "")))
	for len(s) > maxNotes {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
