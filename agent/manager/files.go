package manager

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/units"
	"github.com/lull/lull/agent/local"
	"github.com/lull/lull/agent/offers"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store/index"
)

// FileOptions are the options of InstallFiles.
type FileOptions struct {
	local.Options
	Key     string // of the instance, NAME_KEY
	Older   bool   // a version older than the installed one is not an error
	Confirm string // the digest of the rights that a person has seen
}

// FilePackage is a package made by InstallFiles.
type FilePackage struct {
	Launch   manifest.Launch
	Instance string
	Found    *convert.Description
	Rights   []string
	Package  digest.Digest // zero if it is not published
	Confirm  digest.Digest // zero if nothing needs to be confirmed
}

// files makes packages of files. A conversion takes a slot. A change of the repository local
// takes the turn, from the publication until the engine has the request.
type files struct {
	local *local.Store
	slots chan int
	turn  chan struct{} // capacity 1
}

// conversions is how many conversions run at a time.
const conversions = 2

// freeAfterwards is how much a received file leaves free on the disk, in bytes.
const freeAfterwards = 64 << 20

func (m *Manager) newFiles() files {
	f := files{slots: make(chan int, conversions), turn: make(chan struct{}, 1),
		local: &local.Store{Root: m.Root, Converter: filepath.Join(filepath.Dir(m.Launcher), "lull-convert"), MayWrite: m.mayReceive}}
	for i := range conversions {
		f.slots <- i
	}
	return f
}

// Local returns the store for the files that clients send.
func (m *Manager) Local() *local.Store { return m.files.local }

// mayReceive returns an error of kind NoSpace if the disk cannot take that many bytes.
func (m *Manager) mayReceive(bytes int64) error {
	s, err := m.store.Space()
	if err == nil && s.Free < bytes+freeAfterwards {
		err = errkind.New(errkind.NoSpace, "the disk is full")
	}
	return err
}

// inputs returns uploads in the form that the converter expects.
func inputs(uploads []*local.Upload) (list []local.Input) {
	for _, u := range uploads {
		list = append(list, u)
	}
	return list
}

// convert makes a source of files, in a slot.
func (m *Manager) convert(ctx context.Context, inputs []local.Input, o local.Options) (*local.Source, error) {
	select {
	case slot := <-m.files.slots:
		defer func() { m.files.slots <- slot }()
		l := *m.files.local
		if !m.User && units.Booted() {
			l.Confine = confined(slot)
		}
		return l.Convert(ctx, inputs, o)
	case <-ctx.Done():
		return nil, errkind.New(errkind.Interrupted, "cannot convert files: %w", context.Cause(ctx))
	}
}

func converterUnit(slot int) string { return fmt.Sprintf("lull-convert-%d.service", slot) }

// confined starts the converter as a unit: the sandbox of the agent's own unit prevents it
// from changing the user of a child.
func confined(slot int) func(string) convert.Start {
	return func(root string) convert.Start {
		return func(ctx context.Context, argv []string, in, out, errs *os.File) error {
			systemd := units.System()
			defer systemd.Close()
			return systemd.Run(ctx, units.Program{Name: converterUnit(slot), Description: "Conversion of a file for lull", Command: argv,
				Input: in, Output: out, Errors: errs, Root: root})
		}
	}
}

// endConversions ends the converters of an agent that was killed.
func (m *Manager) endConversions() error {
	if m.User || !units.Booted() {
		return nil
	}
	systemd := units.System()
	defer systemd.Close()
	for slot := range conversions {
		if err := systemd.Kill(m.ctx, converterUnit(slot)); err != nil {
			return err
		}
	}
	return nil
}

// InstallFiles makes a package of uploads, publishes it in the repository of this machine,
// and installs it or refreshes its installed instance. If its rights are not confirmed,
// nothing is published, and p.Confirm is the digest that confirms them. If the same package
// is in use already, there is no refresh, and r.ID is empty. Kind Exists means that a newer
// version is installed.
func (m *Manager) InstallFiles(ctx context.Context, uploads []*local.Upload, o FileOptions) (r plan.Refresh, p FilePackage, err error) {
	what := uploads[0].Name
	if err := m.root.MayChange("install " + what); err != nil {
		return r, p, err
	}
	src, err := m.convert(ctx, inputs(uploads), o.Options)
	if err != nil {
		return r, p, err
	}
	defer func() {
		if e := src.Remove(); e != nil {
			m.Log.Warn("cannot delete what was made of a file", "file", what, "error", e)
		}
	}()
	p = FilePackage{Launch: src.Launch, Instance: src.Launch.Name, Found: src.Found, Rights: src.Rights}
	if o.Key != "" {
		p.Instance += "_" + o.Key
	}
	if err := manifest.ValidInstance(p.Instance); err != nil {
		return r, p, err
	}
	if len(src.Rights) > 0 && o.Confirm != src.Confirm.String() {
		p.Confirm = src.Confirm
		return r, p, nil
	}
	select {
	case m.files.turn <- struct{}{}:
		defer func() { <-m.files.turn }()
	case <-ctx.Done():
		return r, p, errkind.New(errkind.Interrupted, "cannot install %s: %w", what, context.Cause(ctx))
	}
	installed, err := m.mayInstallFile(&p, o.Older)
	if err == nil {
		err = m.useLocal(ctx)
	}
	if err != nil {
		return r, p, err
	}
	published, err := m.files.local.Publish(ctx, src, "stable", "")
	if err != nil {
		return r, p, err
	}
	p.Package = published.Package
	if !installed {
		r, err = m.Install(ctx, p.Launch.Name, o.Key, local.Name, "stable", true)
		if errkind.Is(err, errkind.Exists) { // another request has installed it meanwhile
			installed, err = m.mayInstallFile(&p, o.Older)
		}
	}
	if err == nil && installed {
		r, err = m.refreshFromFile(ctx, p)
	}
	if err != nil && !installed {
		m.pruneLocal(ctx)
	}
	return r, p, err
}

// onceChannel is the channel of packages that are run once. No instance follows it.
const onceChannel = "once"

// ResolveFiles makes a package of uploads resident without installing it, and protects it
// like Open.
func (m *Manager) ResolveFiles(ctx context.Context, uploads []*local.Upload, o local.Options, holder string, pid int) (dir *os.File, lease *index.Lease, l manifest.Launch, err error) {
	what := uploads[0].Name
	if err := m.root.MayChange("run " + what); err != nil {
		return nil, nil, l, err
	}
	src, err := m.convert(ctx, inputs(uploads), o)
	if err != nil {
		return nil, nil, l, err
	}
	defer func() {
		if e := src.Remove(); e != nil {
			m.Log.Warn("cannot delete what was made of a file", "file", what, "error", e)
		}
	}()
	select {
	case m.files.turn <- struct{}{}: // until the package is resident: a collection prunes the channel
		defer func() { <-m.files.turn }()
	case <-ctx.Done():
		return nil, nil, l, errkind.New(errkind.Interrupted, "cannot run %s: %w", what, context.Cause(ctx))
	}
	if err := m.useLocal(ctx); err != nil {
		return nil, nil, l, err
	}
	if _, err := m.files.local.Publish(ctx, src, onceChannel, ""); err != nil {
		return nil, nil, l, err
	}
	defer m.pruneLocal(m.ctx)
	r, err := m.Resolve(ctx, src.Launch.Name, local.Name, onceChannel, holder, pid, nil)
	return r.Dir, r.Lease, src.Launch, err
}

// mayInstallFile returns an error if the instance of a package made of files has another
// source, or is newer. The caller has the turn.
func (m *Manager) mayInstallFile(p *FilePackage, older bool) (installed bool, err error) {
	old, err := m.state.Instance(p.Instance)
	switch {
	case errkind.Is(err, errkind.NotFound):
		return false, nil
	case err != nil:
		return false, err
	case len(old.Revisions) == 0:
		return false, nil
	}
	rev, _, err := m.links.Read(p.Instance)
	if errkind.Is(err, errkind.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if old.Repository != local.Name || old.Channel != "stable" {
		return true, errkind.New(errkind.Conflict, "cannot install %s from a file: it is installed from channel %s of the repository %s", p.Instance, old.Channel, old.Repository).
			WithHint("--key installs a second instance with data of its own; `lull remove %s` removes the first", p.Instance)
	}
	if cur, ok := old.Revision(rev); ok && !older && local.Older(p.Launch.Version, cur.Version) {
		return true, errkind.New(errkind.Exists, "cannot install version %s of %s: version %s is installed, which is newer", p.Launch.Version, p.Instance, cur.Version).
			WithHint("--older installs it; `lull revert %s` goes back to the revision before", p.Instance)
	}
	return true, nil
}

// refreshFromFile starts the refresh of an instance to the version that was published from a
// file. An installation by a person outweighs an earlier revert from that version. There is
// no refresh if that version is in use.
func (m *Manager) refreshFromFile(ctx context.Context, p FilePackage) (plan.Refresh, error) {
	err := m.state.UpdateInstance(p.Instance, func(i *state.Instance) error {
		i.Refused = slices.DeleteFunc(i.Refused, func(d digest.Digest) bool { return d == p.Package })
		return nil
	})
	if err != nil {
		return plan.Refresh{}, err
	}
	started, err := m.Check(ctx, []string{p.Instance}, offers.Mode{Asked: true, Now: true})
	if err != nil {
		return plan.Refresh{}, err
	}
	if len(started) == 0 { // the same package is in use
		return plan.Refresh{}, nil
	}
	return started[0], nil
}

// useLocal makes the repository of this machine, and makes the agent follow it. The caller
// has the turn.
func (m *Manager) useLocal(ctx context.Context) error {
	dir := m.files.local.Dir()
	used := m.repos.ConfigOf(local.Name)
	switch {
	case used.Name == "" && m.repos.NameIsFree(local.Name) == nil:
		root, err := m.files.local.Make(ctx)
		if err != nil {
			return err
		}
		return m.AddRepository(ctx, local.Name, dir, root)
	case used.Name == "":
		_, err := m.repos.Client(local.Name) // it cannot be used; the error has the reason
		return err
	case used.URL != dir:
		return errkind.New(errkind.Conflict, "cannot install files: %q is the name of the repository for them, but that of another one here: %s", local.Name, used.Address()).
			WithHint("`lull repo remove %s` and `lull repo add` give that another name", local.Name)
	case !m.files.local.Made():
		return errkind.New(errkind.Failed, "cannot install files: the repository %s is damaged: it has no metadata", dir).
			WithHint("`lull repo remove %s` forgets it; then a new one is made", local.Name)
	}
	return nil
}

// tidyLocal prunes the repositories of this machine. During a publication it leaves out that
// of files: the next collection prunes it.
func (m *Manager) tidyLocal(ctx context.Context) {
	select {
	case m.files.turn <- struct{}{}:
		defer func() { <-m.files.turn }()
		m.pruneLocal(ctx)
	default:
	}
	for _, name := range m.repos.Names() {
		if config := m.repos.ConfigOf(name); config.Follows() {
			m.pruneRepository(ctx, name, m.replicasOf(config).Store(name))
		}
	}
}

// pruneLocal deletes content from the repository of this machine that is offered to no
// instance and needed by no revision and no refresh. The caller has the turn.
func (m *Manager) pruneLocal(ctx context.Context) { m.pruneRepository(ctx, local.Name, m.files.local) }

// pruneRepository is pruneLocal for a repository of this machine. A replica continues to
// offer the packages that are followed from its source.
func (m *Manager) pruneRepository(ctx context.Context, repository string, l *local.Store) {
	if !l.Made() {
		return
	}
	instances, err := m.state.Instances()
	if err != nil {
		m.Log.Error("cannot prune a repository of this machine", "repository", repository, "error", err)
		return
	}
	offered := map[string]bool{} // name@channel
	names, err := m.followed(m.repos.ConfigOf(repository))
	if err != nil {
		return // its reading fails with the same error
	}
	for _, name := range names {
		offered[name+"@stable"] = true
	}
	var o publish.PruneOptions
	for _, i := range instances {
		name, _ := manifest.SplitInstance(i.Instance)
		if len(i.Revisions) > 0 && i.Repository == repository {
			offered[name+"@"+i.Channel] = true
		}
		for _, v := range i.Revisions {
			o.Kept = append(o.Kept, v.Package)
		}
	}
	for _, r := range m.engine.All() {
		if name, _ := manifest.SplitInstance(r.Instance); r.End == "" {
			o.Kept = append(o.Kept, r.Package)
			if r.Repository == repository && r.Kind == plan.Install {
				offered[name+"@"+r.Channel] = true
			}
		}
	}
	o.Offered = func(name, channel string, _ digest.Digest) bool { return offered[name+"@"+channel] }
	p, err := l.Prune(ctx, o)
	switch {
	case err != nil && ctx.Err() == nil:
		m.Log.Error("cannot prune a repository of this machine", "repository", repository, "error", err)
	case p.Channels+p.Blobs > 0:
		m.Log.Info("a repository of this machine is pruned", "repository", repository, "channels", p.Channels, "blobs", p.Blobs, "bytes", p.Bytes)
	}
}
