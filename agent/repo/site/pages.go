package site

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed" // the templates
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/site/words"
)

// perPage is the number of applications on a page of the list.
const perPage = 60

//go:embed page.html
var pageHTML string

//go:embed style.css
var styleCSS string

// stylePolicy is the source of the style sheet in a Content-Security-Policy.
var stylePolicy = func() string {
	sum := sha256.Sum256([]byte("\n" + styleCSS)) // as it is in the pages
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

var pages = template.Must(template.New("").Parse(pageHTML))

// entry is an application in the list.
type entry struct {
	name         string
	title, about local
	icon         string
	offer        repo.Offer
}

func entryOf(a *app) *entry {
	o := a.offer
	o.Notes, o.Deltas, o.Steps = "", nil, nil
	return &entry{a.name, a.title, a.about, a.icon, o}
}

// frame is what all pages have.
type frame struct {
	W       words.Words
	Title   string // of the repository
	Summary string
	Base    string // "", or "../" for each directory between the page and the site
	Home    string // the first page of the language, seen from the page
	Style   template.CSS
	Policy  string // the hash of the style sheet, for the Content-Security-Policy
	Others  []other
}

// other is the same page in another language.
type other struct{ Language, Name, Link string }

// frameOf returns the frame of a page whose path below the directory of its language is path.
func (m *making) frameOf(language, path string) frame {
	own := directoryOf(language) + path
	f := frame{W: words.For(language), Title: cmp.Or(m.Title, m.Name), Style: template.CSS(styleCSS), Policy: stylePolicy}
	f.Base = strings.Repeat("../", strings.Count(own, "/"))
	f.Home = strings.Repeat("../", strings.Count(path, "/")) + "index.html"
	for _, l := range words.Languages {
		if l != language {
			f.Others = append(f.Others, other{l, words.Name(l), f.Base + directoryOf(l) + path})
		}
	}
	return f
}

// directoryOf returns the directory of a language's pages, with its slash.
func directoryOf(language string) string {
	if language == words.Languages[0] {
		return ""
	}
	return language + "/"
}

func (m *making) render(path, page string, data any) error {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, page, data); err != nil {
		return err
	}
	return m.put(path, b.Bytes())
}

// card is an application in the list, in one language.
type card struct {
	Name, Shown, About, Icon, Initial, Version, Urgency, UrgencyWord, Day string
	Hue                                                                   int
}

// indexPage is a page of the list.
type indexPage struct {
	frame
	First          bool
	PageOf         string // "" for the first one
	Count          string
	Cards          []card
	Pages          []pageLink
	Previous, Next string
	Commands       addCommands
}

type pageLink struct {
	Link, Label, Range string
	Current            bool
}

// addCommands are how a machine gets the repository.
type addCommands struct {
	Root         string // link to root.json
	Command      string
	Placeholder  bool // the command has ADDRESS instead of an address
	Fingerprints []string
}

func (m *making) addCommands(base string) addCommands {
	address := cmp.Or(m.URL, "ADDRESS")
	return addCommands{
		Root:         base + "root.json",
		Command:      fmt.Sprintf("sudo lull repo add %s %s --trust root.json --fingerprint %s", m.Name, address, strings.Join(m.fingerprints, ",")),
		Placeholder:  m.URL == "",
		Fingerprints: m.fingerprints,
	}
}

// indexPages writes the list in each language.
func (m *making) indexPages() error {
	for _, language := range words.Languages {
		if err := m.list(language); err != nil {
			return err
		}
	}
	return nil
}

func (m *making) list(language string) error {
	sorted := slices.Clone(m.apps)
	slices.SortFunc(sorted, func(a, b *entry) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.title.in(language)), strings.ToLower(b.title.in(language))), strings.Compare(a.name, b.name))
	})
	chunks := slices.Collect(slices.Chunk(sorted, perPage))
	if len(chunks) == 0 {
		chunks = [][]*entry{nil}
	}
	link := func(i int) string {
		if i == 0 {
			return "index.html"
		}
		return "page-" + strconv.Itoa(i+1) + ".html"
	}
	var links []pageLink
	for i, c := range chunks {
		if len(chunks) > 1 {
			links = append(links, pageLink{Link: link(i), Label: strconv.Itoa(i + 1), Range: initial(c[0].title.in(language)) + "–" + initial(c[len(c)-1].title.in(language))})
		}
	}
	var g errgroup.Group
	g.SetLimit(readers)
	for i, c := range chunks {
		g.Go(func() error {
			p := indexPage{frame: m.frameOf(language, link(i)), First: i == 0, Pages: slices.Clone(links)}
			p.Count = p.W.Count(len(sorted))
			p.Commands = m.addCommands(p.Base)
			p.Summary = p.Count
			if len(links) > 0 {
				p.Pages[i].Current = true
				if i > 0 {
					p.Previous, p.PageOf = link(i-1), p.W.PageOf(i+1, len(chunks))
				}
				if i < len(chunks)-1 {
					p.Next = link(i + 1)
				}
			}
			for _, e := range c {
				p.Cards = append(p.Cards, cardOf(e, p.W))
			}
			return m.render(directoryOf(language)+link(i), "index", p)
		})
	}
	return g.Wait()
}

func cardOf(e *entry, w words.Words) card {
	title := e.title.in(w.Language)
	c := card{
		Name: e.name, Shown: title, About: e.about.in(w.Language), Icon: e.icon, Initial: initial(title), Hue: hue(e.name),
		Version: e.offer.Version, Day: w.Day(e.offer.Published),
	}
	if e.offer.Urgency == repo.UrgencySecurity || e.offer.Urgency == repo.UrgencyHigh {
		c.Urgency, c.UrgencyWord = string(e.offer.Urgency), w.UrgencyOf(e.offer.Urgency)
	}
	return c
}

// initial returns the first letter or digit of a title.
func initial(title string) string {
	for _, r := range title {
		if unicode.IsLetter(r) || unicode.IsNumber(r) {
			return string(unicode.ToUpper(r))
		}
	}
	return "·"
}

// hue is the colour of the tile of an application without an icon: one of 12 classes.
func hue(name string) (n int) {
	for _, c := range []byte(name) {
		n = (n*31 + int(c)) % 12
	}
	return n
}

// appPage is the page of an application.
type appPage struct {
	frame
	card
	Description []Block
	Screens     []screenView
	Elsewhere   []linkView
	Channels    []channelView
	Versions    []versionView
	Earlier     []versionView
	Developer   string
	License     string
	Size        string
	Links       []linkView
}

type screenView struct {
	Path, Caption string
	Width, Height int
}

type linkView struct{ Link, Label string }

type channelView struct{ Name, Version, Day, Urgency, UrgencyWord, Size, Reach, Command string }

type versionView struct {
	Version, Day, Urgency, UrgencyWord, Size, Channels string
	Notes                                              []string
	Blocks                                             []Block
}

// appPages writes the page of an application in each language.
func (m *making) appPages(a *app) error {
	for _, language := range words.Languages {
		path := "apps/" + a.name + ".html"
		p := appPage{frame: m.frameOf(language, path)}
		w := p.W
		p.card = cardOf(entryOf(a), w)
		p.Summary = p.About
		p.Description = blocks(a.info.description, language)
		for _, s := range a.screens {
			p.Screens = append(p.Screens, screenView{s.path, s.caption.in(language), s.width, s.height})
		}
		for _, s := range a.otherPictures {
			p.Elsewhere = append(p.Elsewhere, linkView{s.url, cmp.Or(s.caption.in(language), s.name)})
		}
		p.Developer, p.License, p.Size = a.info.developer.in(language), a.license, w.Bytes(a.offer.Size)
		for _, l := range []linkView{{a.info.urls["homepage"], w.Homepage}, {a.info.urls["help"], w.Help}, {a.info.urls["bugtracker"], w.Bugs}} {
			if l.Link != "" {
				p.Links = append(p.Links, l)
			}
		}
		for _, list := range a.channels {
			o := &list[0]
			c := channelView{o.Channel, o.Version, w.Day(o.Published), string(o.Urgency), w.UrgencyOf(o.Urgency), w.Bytes(o.Size), w.Reach(o), "sudo lull install " + a.name}
			if o.Channel != "stable" {
				c.Command += " --channel " + o.Channel
			}
			p.Channels = append(p.Channels, c)
		}
		p.Versions, p.Earlier = versions(a, w)
		if err := m.render(directoryOf(language)+path, "app", p); err != nil {
			return err
		}
	}
	return nil
}

// versions returns the versions that the channels offer, the newest first, and those that only
// the metadata of the package describes.
func versions(a *app, w words.Words) (offered, earlier []versionView) {
	described := map[string]release{}
	for _, r := range a.info.releases {
		if _, ok := described[r.version]; !ok {
			described[r.version] = r
		}
	}
	var all []repo.Offer
	channels := map[string][]string{}
	for _, list := range a.channels {
		for _, o := range list {
			if channels[o.Package.String()] == nil {
				all = append(all, o)
			}
			channels[o.Package.String()] = append(channels[o.Package.String()], o.Channel)
		}
	}
	slices.SortStableFunc(all, func(a, b repo.Offer) int { return b.Published.Compare(a.Published) })
	shown := map[string]bool{}
	for _, o := range all {
		shown[o.Version] = true
		v := versionView{
			Version: o.Version, Day: w.Day(o.Published), Urgency: string(o.Urgency), UrgencyWord: w.UrgencyOf(o.Urgency),
			Size: w.Bytes(o.Size), Channels: strings.Join(channels[o.Package.String()], ", "), Notes: paragraphs(o.Notes),
		}
		if o.Notes == "" {
			v.Blocks = blocks(described[o.Version].notes, w.Language)
		}
		offered = append(offered, v)
	}
	for _, r := range a.info.releases {
		if shown[r.version] || r.version == "" {
			continue
		}
		shown[r.version] = true
		v := versionView{Version: r.version, Blocks: blocks(r.notes, w.Language)}
		if !r.date.IsZero() && r.date.After(time.Unix(0, 0)) {
			v.Day = w.Day(r.date)
		}
		earlier = append(earlier, v)
	}
	return offered, earlier
}

// paragraphs splits notes at empty lines.
func paragraphs(notes string) (list []string) {
	for p := range strings.SplitSeq(clean(notes), "\n\n") {
		if p = strings.TrimSpace(p); p != "" && utf8.ValidString(p) {
			list = append(list, p)
		}
	}
	return list
}
