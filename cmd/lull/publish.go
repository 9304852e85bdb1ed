package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// defaultDeltasWithin is for how long machines have deltas from a version that the channel
// has replaced, if --deltas-from does not set the number of versions.
const defaultDeltasWithin = 90 * 24 * time.Hour

// maxSources bounds the files that become one package.
const maxSources = 64

func (a *app) publishCmd() *cobra.Command {
	var s signing
	var repository, channel, urgency, notes, rollout, page string
	var allowKeys []string
	var deltasFrom int
	var deltasLater, wholePack bool
	var made conversion
	cmd := &cobra.Command{
		Use:   "publish FOLDER...|FILE... --repo REPOSITORY",
		Short: "Put packages into a repository",
		Long: `Publishes the package in FOLDER, which has a lull.yaml beside its files. Several
FOLDERs are published with one set of signatures: others see all of them or none.
The repository is a directory that any web server can serve, or s3://BUCKET/PREFIX
in an object store. No agent is needed.

Server, region and credentials of an object store are those of Amazon's tools:
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a
profile. Two publishers at once do not disturb each other.

Of a FILE (.deb, .tar, .tar.gz, .tar.xz, .tar.zst, .tar.bz2, .zip, an AppImage of
type 2, a container image, or a directory without lull.yaml) a package is made first: see
lull-convert(8). Several become one package, which the first one names. --show prints
the lull.yaml that was derived, and --with replaces parts of it. Maintainer scripts
of a .deb never run; they are named. --check prints what will not work on this
machine: libraries, interpreters and icons that are not there, paths that are
compiled in, desktop files that cannot be exported. It exits with status 1 then.

For machines that have one of the last versions of the channel, the differences from
it are made after the new version is published, if they are smaller: see --deltas-from.
If that is interrupted, or with --deltas-later, lull repo deltas makes them.

Version control, backups of editors, files with credentials, and repositories
do not travel; nor do files that FOLDER/.lullignore lists, in the syntax of
gitignore(5). What was left out is printed. A private key is refused.`,
		Example: `  lull repo init ./repo
  lull publish ./notes --repo ./repo
  lull publish ./notes --repo ./repo --channel edge --urgency security
  lull publish ./notes --repo ./repo --rollout 1%@0h,10%@6h,100%@2d
  lull publish ./runtime ./notes --repo ./repo
  lull publish ./notes ./maps --repo s3://packages/main --keys ./keys
  lull publish --show ./Thing-1.2-x86_64.AppImage
  lull publish --check ./thing_1.2_amd64.deb
  lull publish ./thing_1.2_amd64.deb ./libthing_1.0_amd64.deb --repo ./repo`,
		Args: args(1, maxSources),
		RunE: func(cmd *cobra.Command, words []string) error {
			if made.show {
				return a.showConverted(cmd.Context(), words, made)
			}
			if made.check {
				return a.checkPackage(cmd.Context(), words, made)
			}
			switch {
			case len(words) == 2 && repository == "" && !isRegular(words[1]) && !isSource(words[1]):
				repository, words = words[1], words[:1]
			case repository == "":
				return output.Error(errkind.Usage, "cannot publish: no repository is named").WithHint("use it as `%s`", usageLine(cmd.UseLine()))
			}
			if !slices.Contains(repo.Urgencies, repo.Urgency(urgency)) {
				var all []string
				for _, u := range repo.Urgencies {
					all = append(all, string(u))
				}
				return output.Error(errkind.Usage, "cannot understand the urgency %q", urgency).WithHint("it is %s", strings.Join(all, ", "))
			}
			common, err := s.common(repository)
			if err != nil {
				return err
			}
			if deltasFrom < 0 || deltasFrom >= delta.MaxOffers {
				return output.Error(errkind.Usage, "cannot make deltas from %d versions", deltasFrom).WithHint("use 0 to %d", delta.MaxOffers-1)
			}
			o := publish.Options{Common: common, DeltasFrom: deltasFrom, WholePack: wholePack, Channel: channel, Urgency: repo.Urgency(urgency), Notes: notes, AllowKey: allowKeys, Overlay: made.overlay, Nested: true}
			if cmd.Flags().Changed("rollout") {
				if o.Rollout, o.Steps, err = parseRollout(rollout); err != nil {
					return err
				}
			}
			if !cmd.Flags().Changed("deltas-from") {
				o.DeltasWithin = defaultDeltasWithin
			}
			if areSources(words) && (made.overlay != "" || len(allowKeys) > 0) {
				return output.Error(errkind.Usage, "cannot publish several packages with --with or --allow-key").WithHint("these are for one package; publish it by itself")
			}
			var results []*publish.Result
			put := func(dir *scratch) (err error) {
				sources := words
				if dir != nil {
					sources, o.Consume = []string{dir.tree}, true
				}
				show := a.terminalProgress()
				defer show.Close()
				name := filepath.Base(words[0])
				o.Progress = func(done, total int64) {
					show.Update(bus.AgentPath, filesProgress(name, "compress", uint64(done), uint64(total)))
				}
				if results, err = publish.PublishAll(cmd.Context(), repository, sources, o); err != nil {
					return output.Doing(output.T("publish %s", words[0]), dir.named(err, words[0]))
				}
				return nil
			}
			if converts(words) {
				err = a.converted(cmd.Context(), words, made, put)
			} else {
				err = put(nil)
			}
			if err != nil {
				return err
			}
			if !a.JSON {
				if err := a.published(results); err != nil {
					return err
				}
			}
			err = a.makeDeltas(cmd.Context(), repository, common, results, deltasLater)
			if a.JSON {
				err = errors.Join(a.published(results), err)
			}
			return errors.Join(err, a.siteOf(cmd.Context(), repository, page, common))
		},
	}
	s.add(a, cmd)
	cmd.Flags().StringVar(&repository, "repo", "", "`directory` of the repository, or s3://BUCKET/PREFIX")
	cmd.Flags().StringVar(&channel, "channel", "stable", "`name` of the channel")
	cmd.Flags().StringVar(&urgency, "urgency", string(repo.UrgencyMedium), "`urgency` of the version: low, medium, high, security")
	cmd.Flags().StringVar(&notes, "notes", "", "`text` that describes what is new, if not that of lull.yaml")
	cmd.Flags().StringVar(&rollout, "rollout", "100%", "`share` of the machines that get it, or shares by time: 1%@0h,10%@6h,100%@2d")
	cmd.Flags().StringVar(&page, "site", "", "`directory` of the repository's web page, which is made again; see lull repo site")
	cmd.Flags().StringArrayVar(&allowKeys, "allow-key", nil, "publish the file `PATH` of the package although it is a private key")
	cmd.Flags().IntVar(&deltasFrom, "deltas-from", 3, "make deltas from the last `N` versions of the channel alone; 0 makes none. Without it, also from those of the last 90 days")
	cmd.Flags().BoolVar(&deltasLater, "deltas-later", false, "leave the deltas to lull repo deltas, at another time or on another machine")
	cmd.Flags().BoolVar(&wholePack, "whole-pack", false, "also offer all files as one pack, for machines that have none of them")
	made.add(cmd)
	_ = cmd.MarkFlagDirname("repo")
	return cmd
}

// publishedJSON is what `lull publish --json` writes for one package.
type publishedJSON struct {
	output.Document
	publishedPackage
}

// publishedListJSON is what `lull publish --json` writes for several packages.
type publishedListJSON struct {
	output.Document
	Packages []publishedPackage `json:"packages"`
}

type publishedPackage struct {
	Name        string         `json:"name"`
	Package     string         `json:"package"`
	Release     string         `json:"release"`
	Channel     string         `json:"channel"`
	Blobs       int            `json:"blobs"`
	NewBlobs    int            `json:"new-blobs"`
	Bytes       int64          `json:"bytes"`
	NewBytes    int64          `json:"new-bytes"`
	Files       int            `json:"files"`
	FileBytes   int64          `json:"file-bytes"`
	Largest     []fileJSON     `json:"largest"`
	Executables []string       `json:"executables"`
	LeftOut     []omissionJSON `json:"left-out"`
	Private     []string       `json:"private-directories"`
	Subpackages []referredJSON `json:"subpackages,omitempty"`
	System      *newSystemJSON `json:"system,omitempty"`
	Deltas      []deltaJSON    `json:"deltas,omitempty"`
	Proposed    string         `json:"proposed,omitempty"`       // the role whose list has it, until lull repo accept
	Pending     int            `json:"pending-deltas,omitempty"` // that lull repo deltas makes
}

// deltaJSON is a pack of the differences from an earlier version.
type deltaJSON struct {
	From     string `json:"from"`     // package; "" means that the pack has all files
	Size     int64  `json:"size"`     // bytes to fetch
	Replaces int64  `json:"replaces"` // bytes to fetch without it
}

// referredJSON is a package that another one contains, or that a system consists of.
type referredJSON struct {
	Name    string `json:"name,omitempty"` // of a subpackage in its package
	From    string `json:"from"`           // the reference of the source
	Package string `json:"package"`
	Title   string `json:"title"` // name and version of the package
	Bytes   int64  `json:"bytes"` // with its subpackages
}

// newSystemJSON is the system that an update brings.
type newSystemJSON struct {
	Version string         `json:"version"`
	Images  []referredJSON `json:"images"`
	Base    []referredJSON `json:"base"`
	Cache   []referredJSON `json:"cache"`
}

func referred(list []publish.Reference) []referredJSON {
	out := make([]referredJSON, 0, len(list))
	for _, r := range list {
		out = append(out, referredJSON{r.Name, r.From, r.Package.String(), r.Title, r.Bytes})
	}
	return out
}

type fileJSON struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

type omissionJSON struct {
	Path string `json:"path"`
	Why  string `json:"why,omitempty"`
}

func (a *app) published(results []*publish.Result) error {
	if a.JSON && len(results) == 1 {
		return a.WriteJSON(publishedJSON{output.One, packageOf(results[0])})
	}
	if a.JSON {
		doc := publishedListJSON{Document: output.One}
		for _, r := range results {
			doc.Packages = append(doc.Packages, packageOf(r))
		}
		return a.WriteJSON(doc)
	}
	var private []string
	for _, r := range results {
		if err := a.describePublished(r); err != nil {
			return err
		}
		private = append(private, r.Private...)
	}
	if len(private) > 0 {
		slices.Sort(private)
		a.Warn(output.T("the repository is published, but only its owner can read %s", some(slices.Compact(private))), output.T("chmod 755 lets a web server of another user read it"))
	}
	return nil
}

func packageOf(r *publish.Result) publishedPackage {
	p := publishedPackage{
		Name: r.Name, Package: r.Package.String(), Release: r.Version, Channel: r.Channel,
		Blobs: r.Blobs, NewBlobs: r.NewBlobs, Bytes: r.Bytes, NewBytes: r.NewBytes, Files: r.Files, FileBytes: r.FileBytes,
		Largest: []fileJSON{}, Executables: append([]string{}, r.Executables...), LeftOut: []omissionJSON{}, Private: append([]string{}, r.Private...),
		Proposed: r.Proposed,
	}
	for _, f := range r.Largest {
		p.Largest = append(p.Largest, fileJSON(f))
	}
	for _, o := range r.Omitted {
		p.LeftOut = append(p.LeftOut, omissionJSON(o))
	}
	p.Subpackages = referred(r.Subpackages)
	p.Deltas, p.Pending = deltasOf(r.Deltas), r.Pending
	if s := r.System; s != nil {
		p.System = &newSystemJSON{s.Version, referred(s.Images), referred(s.Base), referred(s.Cache)}
	}
	return p
}

func (a *app) describePublished(r *publish.Result) error {
	lines := []string{output.T("%s %s is published in channel %s: %s, %d new (%s)",
		r.Name, r.Version, r.Channel, output.Count(r.Blobs, "file", "files"), r.NewBlobs, output.Size(uint64(max(0, r.NewBytes))))}
	if r.Proposed != "" {
		lines = append(lines, output.T("  machines see it after lull repo accept REPOSITORY %s", r.Proposed))
	}
	lines = append(lines, output.T("  taken: %s, %s", output.Count(r.Files, "file", "files"), output.Size(uint64(max(0, r.FileBytes)))))
	if len(r.Largest) > 0 {
		var largest []string
		for _, f := range r.Largest {
			largest = append(largest, fmt.Sprintf("%s (%s)", output.OneLine(f.Path), output.Size(uint64(max(0, f.Size)))))
		}
		lines = append(lines, output.T("  largest: %s", strings.Join(largest, ", ")))
	}
	lines = append(lines, output.T("  executables: %s", output.Either(some(r.Executables), output.T("none"))))
	if len(r.Omitted) > 0 {
		var names []string
		for _, o := range r.Omitted {
			if o.Why != "" {
				o.Path += " (" + o.Why + ")"
			}
			names = append(names, o.Path)
		}
		lines = append(lines, output.T("  left out: %s", some(names)))
	}
	if r.Pending == 0 {
		lines = append(lines, deltaLines(r.Deltas)...)
	}
	for _, p := range r.Subpackages {
		lines = append(lines, output.T("  subpackage %[1]s: %[2]s", p.Name, referredText(p)))
	}
	if r.System != nil {
		lines = append(lines, systemLines(r)...)
	}
	for _, l := range lines {
		if err := a.Say(l); err != nil {
			return err
		}
	}
	return nil
}

func referredText(r publish.Reference) string {
	return output.T("%[1]s (%[2]s), package %[3]s", output.OneLine(r.Title), output.Size(uint64(max(0, r.Bytes))), r.Package.Short())
}

// systemLines describe the system that an update brings, and the next steps of its maker.
func systemLines(r *publish.Result) []string {
	s := r.System
	lines := []string{output.T("  system %s:", s.Version)}
	for _, part := range []struct {
		key  string
		list []publish.Reference
	}{{"images", s.Images}, {"base", s.Base}, {"cache", s.Cache}} {
		for _, p := range part.list {
			lines = append(lines, fmt.Sprintf("    %s: %s", part.key, referredText(p)))
		}
	}
	lines = append(lines,
		output.T("  next, on a machine: lull system stage %[1]s@%[2]s, then restart it", r.Name, r.Channel),
		output.T("  next, in an image with this system: system.yaml with these packages, see lull-system.yaml(5)"))
	if s.Unchecked {
		lines = append(lines, output.T("  no base package has a health hook: lull system commit checks nothing"))
	}
	return lines
}

// some joins the first of many names, for one line.
func some(names []string) string {
	const most = 12
	shown := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		shown = append(shown, output.OneLine(n))
	}
	text := strings.Join(shown, ", ")
	if more := len(names) - len(shown); more > 0 {
		text += output.T(" and %d more (--json lists them)", more)
	}
	return text
}
