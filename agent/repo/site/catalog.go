package site

import (
	"bufio"
	"compress/gzip"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/site/words"
)

// catalogFile is the AppStream catalogue in the site (AppStream specification, "Catalog XML").
const catalogFile = "appstream/catalog.xml.gz"

// catalog writes the AppStream catalogue.
type catalog struct {
	making *making
	file   *os.File
	gzip   *gzip.Writer
	out    *bufio.Writer
	err    error // the first one
}

func (m *making) newCatalog() (*catalog, error) {
	f, err := os.OpenFile(filepath.Join(m.dir, catalogFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	c := &catalog{making: m, file: f}
	c.gzip = gzip.NewWriter(f)
	c.out = bufio.NewWriter(c.gzip)
	c.text("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<components version=\"0.16\" origin=\"" + m.Name + "\">\n")
	return c, f.Chmod(0o644)
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a builder does not fail
	return b.String()
}

func (c *catalog) text(s string) {
	if _, err := io.WriteString(c.out, s); err != nil && c.err == nil {
		c.err = err
	}
}

// element writes an element with a text. An empty text is left out.
func (c *catalog) element(name, attrs, text string) {
	if text != "" {
		c.text("<" + name + attrs + ">" + escaped(text) + "</" + strings.Fields(name)[0] + ">\n")
	}
}

// locals writes an element in each language.
func (c *catalog) locals(name string, l local) {
	for _, lang := range append([]string{""}, words.Languages[1:]...) {
		attrs := ""
		if lang != "" {
			attrs = ` xml:lang="` + lang + `"`
		}
		c.element(name, attrs, l[lang])
	}
}

// description writes paragraphs and lists.
func (c *catalog) description(list []block) {
	for _, lang := range append([]string{""}, words.Languages[1:]...) {
		some := lang == "" && len(list) > 0
		for _, b := range list {
			some = some || lang != "" && b.text[lang] != ""
		}
		if !some {
			continue
		}
		open := "<description>"
		if lang != "" {
			open = `<description xml:lang="` + lang + `">`
		}
		c.text(open)
		inList := false
		for _, b := range list {
			if b.item != inList {
				c.text(map[bool]string{true: "<ul>", false: "</ul>"}[b.item])
				inList = b.item
			}
			c.element(map[bool]string{true: "li", false: "p"}[b.item], "", b.text.in(lang))
		}
		if inList {
			c.text("</ul>")
		}
		c.text("</description>\n")
	}
}

// add writes the component of an application. Its id is the name of the package, which no
// other package can have, whatever its metadata claims. A package without programs is none.
func (c *catalog) add(a *app) error {
	if !a.hasPrograms {
		return c.err
	}
	kind := "console-application"
	if a.desktop != "" {
		kind = "desktop-application"
	}
	c.text(`<component type="` + kind + "\">\n")
	c.element("id", "", a.name)
	c.locals("name", a.title)
	about := a.about
	if about[""] == "" {
		about = local{"": a.title[""]}
	}
	c.locals("summary", about)
	c.element("pkgname", "", a.name)
	c.element("project_license", "", a.license)
	description := a.info.description
	if len(description) == 0 {
		description = []block{{text: about}} // the specification requires one
	}
	c.description(description)
	c.locals("developer_name", a.info.developer) // readers of all versions know this form
	for _, kind := range []string{"homepage", "bugtracker", "help"} {
		c.element("url", ` type="`+kind+`"`, a.info.urls[kind])
	}
	if a.desktop != "" {
		c.element("launchable", ` type="desktop-id"`, a.desktop)
	}
	if a.desktop == "" {
		c.text("<provides>\n")
		for _, p := range a.meta.Apps {
			c.element("binary", "", p.Name)
		}
		c.text("</provides>\n")
	}
	if len(a.categories) > 0 {
		c.text("<categories>\n")
		for _, s := range a.categories {
			c.element("category", "", s)
		}
		c.text("</categories>\n")
	}
	c.pictures(a)
	c.releases(a)
	c.text("</component>\n")
	return c.err
}

// media returns the address of a picture of the site.
func (m *making) media(path string) string { return m.URL + "/" + m.base + "/" + path }

func (c *catalog) pictures(a *app) {
	if c.making.URL == "" {
		return // pictures need an address
	}
	size := func(w, h int) string {
		return ` width="` + strconv.Itoa(w) + `" height="` + strconv.Itoa(h) + `"`
	}
	if a.iconSide > 0 {
		c.element("icon", ` type="remote"`+size(a.iconSide, a.iconSide), c.making.media(a.icon))
	}
	if len(a.screens) == 0 {
		return
	}
	c.text("<screenshots>\n")
	for i, s := range a.screens {
		c.text(map[bool]string{true: "<screenshot type=\"default\">\n", false: "<screenshot>\n"}[i == 0])
		c.locals("caption", s.caption)
		c.element("image", ` type="source"`+size(s.width, s.height), c.making.media(s.path))
		c.text("</screenshot>\n")
	}
	c.text("</screenshots>\n")
}

// releases writes the versions of the channel, with their notes.
func (c *catalog) releases(a *app) {
	c.text("<releases>\n")
	for _, o := range a.channels[0] {
		urgency := string(o.Urgency)
		if o.Urgency == repo.UrgencySecurity {
			urgency = "critical"
		}
		c.text(`<release version="` + escaped(o.Version) + `" timestamp="` + strconv.FormatInt(o.Published.Unix(), 10) + `" urgency="` + urgency + `">`)
		if o.Notes != "" {
			c.text("<description>")
			for _, p := range paragraphs(o.Notes) {
				c.element("p", "", p)
			}
			c.text("</description>")
		}
		c.text("</release>\n")
	}
	c.text("</releases>\n")
}

// finish completes the file.
func (c *catalog) finish() error {
	c.text("</components>\n")
	return errors.Join(c.err, c.out.Flush(), c.gzip.Close())
}

func (c *catalog) close() { c.file.Close() }
