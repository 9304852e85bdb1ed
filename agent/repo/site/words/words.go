// Package words has the texts of a repository's web page, in the languages of lull.
//
// A Words is a pure value. Its texts are messages of package texts.
package words

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull/lull/agent/lib/texts"
	"github.com/lull/lull/agent/repo"
)

// Languages are those that the page has, the first one without a directory of its own.
var Languages = []string{"en", "de"}

// names are the languages in their own words.
var names = map[string]string{"en": "English", "de": "Deutsch"}

// Name returns the name of a language in that language.
func Name(language string) string { return names[language] }

// Words are the texts of the page in a language.
type Words struct {
	Language string
	texts    texts.Texts

	Applications, AddTitle, AddTrust, AddCommand, AddPlace, AddCompare, Fingerprint, Catalog       string
	Back, Install, InstallHint, Versions, Earlier, Version, Size                                   string
	License, Homepage, Developer, Help, Bugs, Package, NoNotes, Empty, Previous, Next, Pages, Made string
	Screenshots, Elsewhere, Details, Languages, Skip                                               string
}

// For returns the texts in a language.
func For(language string) Words {
	t := texts.For("lull", language)
	return Words{
		Language: language, texts: t,
		Applications: t.T("Applications"),
		AddTitle:     t.T("Add this repository"),
		AddTrust:     t.T("Download the root of trust:"),
		AddCommand:   t.T("Then run, as an administrator:"),
		AddPlace:     t.T("ADDRESS is the address of the repository."),
		AddCompare:   t.T("The command compares the key with this fingerprint, and refuses others. Compare it with one from another source, too, if you can."),
		Fingerprint:  t.T("Fingerprint (SHA-256)"),
		Catalog:      t.T("AppStream catalogue"),
		Back:         t.T("All applications"),
		Install:      t.T("Install"),
		InstallHint:  t.T("On a machine that has this repository:"),
		Versions:     t.T("Versions"),
		Earlier:      t.T("Earlier versions"),
		Version:      t.T("Version"),
		Size:         t.T("Size"),
		License:      t.T("Licence"),
		Homepage:     t.T("Website"),
		Help:         t.T("Help"),
		Bugs:         t.T("Report a fault"),
		Developer:    t.T("Developer"),
		Package:      t.T("Package"),
		NoNotes:      t.T("The packager has written no notes for this version."),
		Empty:        t.T("This repository has no packages yet."),
		Previous:     t.T("Previous page"),
		Next:         t.T("Next page"),
		Pages:        t.T("Pages"),
		Made:         t.T("Made by lull from signed metadata"),
		Screenshots:  t.T("Screenshots"),
		Elsewhere:    t.T("Picture on another website"),
		Details:      t.T("Details"),
		Languages:    t.T("Languages"),
		Skip:         t.T("To the content"),
	}
}

// Count returns the number of applications of the page.
func (w Words) Count(n int) string {
	number := humanize.Comma(int64(n))
	if w.Language == "de" {
		number = strings.ReplaceAll(number, ",", ".")
	}
	return w.texts.N("%s application", "%s applications", n, number)
}

// Bytes returns a size.
func (w Words) Bytes(n int64) string {
	s := humanize.Bytes(uint64(max(0, n)))
	if w.Language == "de" {
		s = strings.ReplaceAll(s, ".", ",")
	}
	return s
}

// Day returns the day of a time, by ISO 8601.
func (w Words) Day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// UrgencyOf returns the word for an urgency.
func (w Words) UrgencyOf(u repo.Urgency) string {
	switch u {
	case repo.UrgencyLow:
		return w.texts.T("Minor")
	case repo.UrgencyHigh:
		return w.texts.T("Important")
	case repo.UrgencySecurity:
		return w.texts.T("Security")
	}
	return w.texts.T("Normal")
}

// Reach describes the machines that get an offer, and "" means all of them.
func (w Words) Reach(o *repo.Offer) string {
	switch {
	case o.Halted != nil && o.Halted.Reason != "":
		return w.texts.T("Halted: %s", o.Halted.Reason)
	case o.Halted != nil:
		return w.texts.T("Halted")
	case len(o.Steps) > 0 && o.Steps[0].Percent < 100:
		return w.texts.T("Rollout: %s", repo.FormatSteps(o.Steps))
	case len(o.Steps) == 0 && o.Rollout.Percent < 100:
		return w.texts.T("Rollout: %s", fmt.Sprintf("%d%%", o.Rollout.Percent))
	}
	return ""
}

// PageOf returns the title of a further page.
func (w Words) PageOf(n, all int) string { return w.texts.T("Page %[1]d of %[2]d", n, all) }

// From returns the line with the developer of an application.
func (w Words) From(developer string) string { return w.texts.T("by %s", developer) }
