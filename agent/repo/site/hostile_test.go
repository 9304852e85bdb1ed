package site

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/lull/lull/agent/repo/publish"
)

// evil is a text that is dangerous in HTML, attributes, style sheets and XML.
const evil = `"'><script>alert(1)</script><img src=x onerror=alert(1)>` + "\u202e</style>]]>{{.Root}}&#x3c;svg onload=alert(1)>"

// hostileXML is evil in XML.
var hostileXML = escaped(evil)

// TestHostilePackage: whatever a package's texts, pictures and names are, the pages have no
// element that runs something, no address but those of the site and of the web, and the rest
// is complete.
func TestHostilePackage(t *testing.T) {
	dir := initRepo(t)
	fillRepo(t, dir)
	files := map[string]string{
		"lull.yaml": "name: org.evil.app\nversion: '<script>alert(1)'\ntitle: '\"><script>alert(1)</script>'\nsummary: '<img src=x onerror=alert(1)>'\nlicense: 'javascript:alert(1)'\nicon: 'share/icon \"onerror=alert(1).svg'\n" +
			"apps: [{name: evil, command: [bin/evil], desktop: share/evil.desktop}]\n",
		"bin/evil*":          "#!/bin/sh\n",
		"share/evil.desktop": "[Desktop Entry]\nType=Application\nName=" + evil + "\nExec=evil\nIcon=../../../../etc/passwd\nCategories=<script>;javascript:alert(1);\n",
		`share/icon "onerror=alert(1).svg`: `<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script><a href="javascript:alert(1)"><rect/></a>` +
			`<image href="https://evil.example/track.png"/><foreignObject><iframe xmlns="http://www.w3.org/1999/xhtml" src="https://evil.example"/></foreignObject></svg>`,
		"share/metainfo/evil.metainfo.xml": `<component type="desktop-application"><id>org.example.notes</id><name>` + hostileXML + `</name><summary>` + hostileXML + `</summary><developer_name>` + hostileXML + `</developer_name>` +
			`<description><p>` + hostileXML + `</p><script>alert(1)</script><ul><li onclick="alert(1)">` + hostileXML + `</li></ul></description>` +
			`<url type="homepage">javascript:alert(1)</url><url type="help"> data:text/html,alert(1)</url><url type="bugtracker">https://user:password@evil.example/` + hostileXML + `</url>` +
			`<screenshots><screenshot><caption>` + hostileXML + `</caption><image>javascript:alert(1)</image></screenshot><screenshot><image>https://evil.example/` + hostileXML + `</image></screenshot></screenshots>` +
			`<releases><release version="` + hostileXML + `" date="2026-01-01"><description><p>` + hostileXML + `</p></description></release></releases></component>`,
		"share/metainfo/bomb.metainfo.xml":                  `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><component><id>&b;</id></component>`,
		"share/screenshots/x\" onerror=\"alert(1).png":      drawing(40, 30),
		"share/screenshots/html.png":                        "<html><script>alert(1)</script></html>",
		"share/screenshots/huge.png":                        huge(),
		"share/icons/hicolor/128x128/apps/org.evil.app.png": drawing(100, 100)[:200],
	}
	put(t, dir, files, publish.Options{Notes: evil + "\n\n" + evil})
	out := filepath.Join(dir, "site")
	r, err := Make(t.Context(), dir, Options{Output: out, URL: "https://example.org/lull", Title: evil})
	must(t, err)
	if r.Applications != 3 {
		t.Errorf("got %d applications, want 3: %+v", r.Applications, r.LeftOut)
	}
	left := fmt.Sprint(r.LeftOut)
	for _, want := range []string{"bomb.metainfo.xml", "html.png", "huge.png"} {
		if !strings.Contains(left, want) {
			t.Errorf("%s is not left out: %s", want, left)
		}
	}
	site := read(t, out)
	for name, content := range site {
		switch filepath.Ext(name) {
		case ".html":
			harmlessPage(t, name, content)
		case ".svg":
			for _, bad := range []string{"script", "onload", "foreignObject", "evil.example", "javascript"} {
				if strings.Contains(content, bad) {
					t.Errorf("%s has %q: %s", name, bad, content)
				}
			}
		case ".png", ".jpg", ".json", ".gz":
		default:
			t.Errorf("%s is in the site: want pages, pictures, the root and the catalogue", name)
		}
	}
	catalog := unpacked(t, site[catalogFile])
	if strings.Contains(catalog, "<script") || strings.Contains(catalog, "javascript:alert(1)</url>") || strings.Count(catalog, "<id>org.example.notes</id>") != 1 {
		t.Errorf("the catalogue is %s; want no script, no such address, and org.example.notes once", catalog)
	}
}

// harmlessPage checks a page as a browser parses it.
func harmlessPage(t *testing.T, name, content string) {
	t.Helper()
	allowed := set(`html head meta title style body a header nav main section div h1 h2 h3 p details summary ol ul li pre code dl dt dd
		img span footer article time figure figcaption aside b br`)
	attributes := set("lang charset http-equiv content name href hreflang class id aria-label aria-hidden aria-current src alt width height loading rel download title")
	doc, err := html.Parse(strings.NewReader(content))
	must(t, err)
	policies := 0
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode && !allowed[n.Data] {
			t.Errorf("%s has the element %s", name, n.Data)
		}
		if n.Type == html.CommentNode {
			t.Errorf("%s has a comment: %s", name, n.Data)
		}
		for _, a := range n.Attr {
			if !attributes[a.Key] {
				t.Errorf("%s has the attribute %s=%q of %s", name, a.Key, a.Val, n.Data)
			}
			if (a.Key == "href" || a.Key == "src") && !strings.HasPrefix(a.Val, "https://") && (strings.Contains(a.Val, ":") || strings.HasPrefix(a.Val, "/")) {
				t.Errorf("%s has a link to %q", name, a.Val)
			}
			if a.Key == "src" && strings.Contains(a.Val, "//") {
				t.Errorf("%s loads %q", name, a.Val)
			}
			if a.Val == "Content-Security-Policy" {
				policies++
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(doc)
	if policies != 1 {
		t.Errorf("%s has %d policies, want 1", name, policies)
	}
	if strings.ContainsRune(content, '\u202e') {
		t.Errorf("%s has a character that turns the text around", name)
	}
}

// huge is the beginning of a PNG of 60,000 × 60,000 pixels.
func huge() string {
	b, err := base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAA6mAAAOpgCAAAAAA=")
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestVector(t *testing.T) {
	const ns = `xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"`
	lots := strings.Repeat(`<g id="a0"><rect/></g>`, 1)
	for i := range 20 {
		lots += fmt.Sprintf(`<g id="a%d">%s</g>`, i+1, strings.Repeat(fmt.Sprintf(`<use href="#a%d"/>`, i), 10))
	}
	for _, c := range []struct{ what, in, want string }{
		{"shapes stay", `<svg ` + ns + ` viewBox="0 0 8 8"><defs><linearGradient id="g"><stop offset="0" stop-color="red"/></linearGradient></defs><path d="M0 0h8" fill="url(#g)"/></svg>`,
			`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><defs><linearGradient id="g"><stop offset="0" stop-color="red"/></linearGradient></defs><path d="M0 0h8" fill="url(#g)"/></svg>`},
		{"scripts and handlers go", `<svg ` + ns + ` onload="x()"><script>x()</script><set attributeName="href" to="javascript:x()"/><rect onclick="x()" width="1"/></svg>`, `<svg xmlns="http://www.w3.org/2000/svg"><rect width="1"/></svg>`},
		{"other servers go", `<svg ` + ns + `><rect fill="URL( 'https://x.example/#a')" style="fill:url(//x.example)"/><use xlink:href="https://x.example/a.svg#b"/><style>@import "https://x.example"</style></svg>`, `<svg xmlns="http://www.w3.org/2000/svg"><rect/><use/><style/></svg>`},
		{"escapes of CSS go", `<svg ` + ns + `><rect style="fill:u\72l(https://x.example)"/></svg>`, `<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>`},
		{"references inside stay", `<svg ` + ns + `><g id="a"/><use xlink:href="#a"/></svg>`, `<svg xmlns="http://www.w3.org/2000/svg"><g id="a"/><use href="#a"/></svg>`},
		{"other languages go", `<svg ` + ns + `><rdf:RDF xmlns:rdf="r"><x/></rdf:RDF><script xmlns="http://www.w3.org/1999/xhtml">x()</script></svg>`, `<svg xmlns="http://www.w3.org/2000/svg"/>`},
		{"a picture that is none goes", `<svg ` + ns + `><image href="data:image/png;base64,PHN2Zz4="/><image href="data:image/svg+xml;base64,PHN2Zz4="/></svg>`, `<svg xmlns="http://www.w3.org/2000/svg"><image/><image/></svg>`},
		{"itself", `<svg ` + ns + `><g id="a"><use href="#a"/></g></svg>`, ""},
		{"more than can be drawn", `<svg ` + ns + `>` + lots + `</svg>`, ""},
		{"deep", `<svg ` + ns + `>` + strings.Repeat("<g>", 200) + strings.Repeat("</g>", 200) + `</svg>`, ""},
		{"a page", `<html><svg ` + ns + `/></html>`, ""},
		{"an entity", `<!DOCTYPE svg [<!ENTITY a "b">]><svg ` + ns + `><title>&a;</title></svg>`, ""},
		{"nothing", "", ""},
	} {
		p, err := vector([]byte(c.in))
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: got %s, want an error", c.what, p.data)
			}
			continue
		}
		if err != nil || string(p.data) != c.want {
			t.Errorf("%s: got %v, %v; want %s", c.what, p, err, c.want)
		}
	}
}

// FuzzVector: what is kept of any picture is kept unchanged by a second run.
func FuzzVector(f *testing.F) {
	f.Add([]byte(`<svg xmlns="http://www.w3.org/2000/svg"><rect fill="url(#a)"/><style>a{}</style></svg>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := vector(data)
		if err != nil {
			return
		}
		again, err := vector(p.data)
		if err != nil || string(again.data) != string(p.data) {
			t.Errorf("got %v, %v; want %s", again, err, p.data)
		}
	})
}

func TestLanguages(t *testing.T) {
	for locale, want := range map[string]string{"": "", "C": "", "de": "de", "de_DE.UTF-8": "de", "de-DE": "de", "en_US": "en", "en@shaw": "en@shaw", "de_AT": "de_AT"} {
		if got := languageOf(locale); got != want {
			t.Errorf("%q: got %q, want %q", locale, got, want)
		}
	}
	m, err := parseMetainfo([]byte(`<component><name>Calculator</name><name xml:lang="en@shaw">x</name><name xml:lang="de">Rechner</name></component>`))
	must(t, err)
	if en, de := m.name.in("en"), m.name.in("de"); en != "Calculator" || de != "Rechner" {
		t.Errorf("got %q and %q, want Calculator and Rechner", en, de)
	}
}

func TestRaster(t *testing.T) {
	p, err := raster([]byte(drawing(300, 100)), 128, 128)
	if err != nil || p.width != 128 || p.height != 42 {
		t.Errorf("got %+v, %v; want 128 × 42", p, err)
	}
	for what, data := range map[string]string{"huge": huge(), "cut": drawing(10, 10)[:60], "text": "<svg/>"} {
		if _, err := raster([]byte(data), 128, 128); err == nil {
			t.Errorf("%s: got a picture, want an error", what)
		}
	}
}
