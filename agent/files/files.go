// Package files installs packages made of files that clients send, and makes such a package
// resident for one run.
//
// The package is published in the repository of this machine (package local), which the agent
// follows like any other: an instance installed from a file is refreshed by the next file. It
// is this package that makes that repository, adds it, and prunes what no instance needs.
//
// Files may be used from any goroutine. Install and Resolve block on the converter and on the
// turn; Tidy leaves out the repository of files while another has the turn.
package files

import (
	"context"
	"log/slog"
	"os"
	"slices"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/current"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/local"
	"github.com/lull/lull/agent/refresh"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repositories"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/agent/store/index"
)

// Steps of the making of a package, for Progress.
const (
	StepConvert  = "convert"  // bytes of the files are read
	StepCompress = "compress" // bytes of the package are put into the repository
)

// Progress is called with how far a step is, in bytes, often and by any goroutine. It may be
// nil.
type Progress func(step string, done, total int64)

// of returns the progress of one step.
func (p Progress) of(step string) func(done, total int64) {
	if p == nil {
		return nil
	}
	return func(done, total int64) { p(step, done, total) }
}

// Options are the options of Install.
type Options struct {
	local.Options
	Progress Progress
	Key      string // of the instance, NAME_KEY
	Older    bool   // a version older than the installed one is not an error
	Confirm  string // the digest of the rights that a person has seen
}

// Package is a package made by Install.
type Package struct {
	Launch   manifest.Launch
	Instance string
	Found    *convert.Description
	Rights   []string
	Package  digest.Digest // zero if it is not published
	Confirm  digest.Digest // zero if nothing needs to be confirmed
}

// Config has what Files works with.
type Config struct {
	Local        *local.Store
	Slots        *local.Slots
	State        *state.DB
	Links        current.Links
	Engine       *refresh.Engine
	Repositories *repositories.Set
	Log          *slog.Logger
	// MayChange returns why the root cannot be changed, as the error of doing what.
	MayChange func(what string) error
	// Prepare gives files to the store, for a package that it will resolve.
	Prepare func(pkg digest.Digest, files map[store.Key]string) error
	// Replica returns the replica of a repository that follows a source of apt or a directory.
	Replica func(config repo.Config) *local.Store
	// Followed lists the packages that a replica offers by itself; none for other repositories.
	Followed func(config repo.Config) ([]string, error)

	// These request what they are called of other parts of the agent.
	AddRepository  func(ctx context.Context, name, url string, root []byte) error
	InstallPackage func(ctx context.Context, name, key, repository, channel string) (plan.Refresh, error)
	Refresh        func(ctx context.Context, instance string) ([]plan.Refresh, error)
	ResolvePackage func(ctx context.Context, name, repository, channel, holder string, pid int) (dir *os.File, lease *index.Lease, err error)
}

// Files makes packages of files, and installs them. A change of the repository local takes
// the turn, from the publication until the engine has the request.
type Files struct {
	Config
	ctx  context.Context // ends with the agent
	turn chan struct{}   // capacity 1
}

// New returns Files that have done nothing yet. ctx ends with the agent.
func New(ctx context.Context, c Config) *Files {
	return &Files{Config: c, ctx: ctx, turn: make(chan struct{}, 1)}
}

// inputs returns uploads in the form that the converter expects.
func inputs(uploads []*local.Upload) (list []local.Input) {
	for _, u := range uploads {
		list = append(list, u)
	}
	return list
}

// Install makes a package of uploads, publishes it in the repository of this machine,
// and installs it or refreshes its installed instance. If its rights are not confirmed,
// nothing is published, and p.Confirm is the digest that confirms them. If the same package
// is in use already, there is no refresh, and r.ID is empty. Kind Exists means that a newer
// version is installed.
func (f *Files) Install(ctx context.Context, uploads []*local.Upload, o Options) (r plan.Refresh, p Package, err error) {
	what := uploads[0].Name
	if err := f.MayChange("install " + what); err != nil {
		return r, p, err
	}
	o.Options.Progress = o.Progress.of(StepConvert)
	src, err := f.Slots.Convert(ctx, inputs(uploads), o.Options)
	if err != nil {
		return r, p, err
	}
	defer func() {
		if e := src.Remove(); e != nil {
			f.Log.Warn("cannot delete what was made of a file", "file", what, "error", e)
		}
	}()
	p = Package{Launch: src.Launch, Instance: src.Launch.Name, Found: src.Found, Rights: src.Rights}
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
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return r, p, errkind.New(errkind.Interrupted, "cannot install %s: %w", what, context.Cause(ctx))
	}
	installed, err := f.mayInstallFile(&p, o.Older)
	if err == nil {
		err = f.useLocal(ctx)
	}
	if err != nil {
		return r, p, err
	}
	if p.Package, err = f.publish(ctx, src, "stable", o.Progress); err != nil {
		return r, p, err
	}
	if !installed {
		r, err = f.InstallPackage(ctx, p.Launch.Name, o.Key, local.Name, "stable")
		if errkind.Is(err, errkind.Exists) { // another request has installed it meanwhile
			installed, err = f.mayInstallFile(&p, o.Older)
		}
	}
	if err == nil && installed {
		r, err = f.refreshFromFile(ctx, p)
	}
	if err != nil && !installed {
		f.pruneLocal(ctx)
	}
	return r, p, err
}

// publish publishes a source in the repository of this machine, and gives its files to the
// store, which need not read them from there. The caller has the turn.
func (f *Files) publish(ctx context.Context, src *local.Source, channel string, progress Progress) (digest.Digest, error) {
	r, err := f.Local.Publish(ctx, src, channel, "", progress.of(StepCompress))
	if err != nil {
		return digest.Digest{}, err
	}
	if err := f.Prepare(r.Package, src.Content(r)); err != nil { // the repository has them too
		f.Log.Warn("cannot keep the files of a package that was made of a file", "package", r.Name, "error", err)
	}
	return r.Package, nil
}

// onceChannel is the channel of packages that are run once. No instance follows it.
const onceChannel = "once"

// Resolve makes a package of uploads resident without installing it, and protects it
// until the lease is closed.
func (f *Files) Resolve(ctx context.Context, uploads []*local.Upload, o local.Options, holder string, pid int, progress Progress) (dir *os.File, lease *index.Lease, l manifest.Launch, err error) {
	what := uploads[0].Name
	if err := f.MayChange("run " + what); err != nil {
		return nil, nil, l, err
	}
	o.Progress = progress.of(StepConvert)
	src, err := f.Slots.Convert(ctx, inputs(uploads), o)
	if err != nil {
		return nil, nil, l, err
	}
	defer func() {
		if e := src.Remove(); e != nil {
			f.Log.Warn("cannot delete what was made of a file", "file", what, "error", e)
		}
	}()
	select {
	case f.turn <- struct{}{}: // until the package is resident: a collection prunes the channel
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return nil, nil, l, errkind.New(errkind.Interrupted, "cannot run %s: %w", what, context.Cause(ctx))
	}
	if err := f.useLocal(ctx); err != nil {
		return nil, nil, l, err
	}
	if _, err := f.publish(ctx, src, onceChannel, progress); err != nil {
		return nil, nil, l, err
	}
	defer f.pruneLocal(f.ctx)
	dir, lease, err = f.ResolvePackage(ctx, src.Launch.Name, local.Name, onceChannel, holder, pid)
	return dir, lease, src.Launch, err
}

// mayInstallFile returns an error if the instance of a package made of files has another
// source, or is newer. The caller has the turn.
func (f *Files) mayInstallFile(p *Package, older bool) (installed bool, err error) {
	old, err := f.State.Instance(p.Instance)
	switch {
	case errkind.Is(err, errkind.NotFound):
		return false, nil
	case err != nil:
		return false, err
	case len(old.Revisions) == 0:
		return false, nil
	}
	rev, _, err := f.Links.Read(p.Instance)
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
func (f *Files) refreshFromFile(ctx context.Context, p Package) (plan.Refresh, error) {
	err := f.State.UpdateInstance(p.Instance, func(i *state.Instance) error {
		i.Refused = slices.DeleteFunc(i.Refused, func(d digest.Digest) bool { return d == p.Package })
		return nil
	})
	if err != nil {
		return plan.Refresh{}, err
	}
	started, err := f.Refresh(ctx, p.Instance)
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
func (f *Files) useLocal(ctx context.Context) error {
	dir := f.Local.Dir()
	used := f.Repositories.ConfigOf(local.Name)
	switch {
	case used.Name == "" && f.Repositories.NameIsFree(local.Name) == nil:
		root, err := f.Local.Make(ctx)
		if err != nil {
			return err
		}
		return f.AddRepository(ctx, local.Name, dir, root)
	case used.Name == "":
		_, err := f.Repositories.Client(local.Name) // it cannot be used; the error has the reason
		return err
	case used.URL != dir:
		return errkind.New(errkind.Conflict, "cannot install files: %q is the name of the repository for them, but that of another one here: %s", local.Name, used.Address()).
			WithHint("`lull repo remove %s` and `lull repo add` give that another name", local.Name)
	case !f.Local.Made():
		return errkind.New(errkind.Failed, "cannot install files: the repository %s is damaged: it has no metadata", dir).
			WithHint("`lull repo remove %s` forgets it; then a new one is made", local.Name)
	}
	return nil
}

// Tidy prunes the repositories of this machine. During a publication it leaves out that
// of files: the next collection prunes it.
func (f *Files) Tidy(ctx context.Context) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
		f.pruneLocal(ctx)
	default:
	}
	for _, name := range f.Repositories.Names() {
		if config := f.Repositories.ConfigOf(name); config.Follows() {
			f.pruneRepository(ctx, name, f.Replica(config))
		}
	}
}

// pruneLocal deletes content from the repository of this machine that is offered to no
// instance and needed by no revision and no refresh. The caller has the turn.
func (f *Files) pruneLocal(ctx context.Context) { f.pruneRepository(ctx, local.Name, f.Local) }

// pruneRepository is pruneLocal for a repository of this machine. A replica continues to
// offer the packages that are followed from its source.
func (f *Files) pruneRepository(ctx context.Context, repository string, l *local.Store) {
	if !l.Made() {
		return
	}
	instances, err := f.State.Instances()
	if err != nil {
		f.Log.Error("cannot prune a repository of this machine", "repository", repository, "error", err)
		return
	}
	offered := map[string]bool{} // name@channel
	names, err := f.Followed(f.Repositories.ConfigOf(repository))
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
	for _, r := range f.Engine.All() {
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
		f.Log.Error("cannot prune a repository of this machine", "repository", repository, "error", err)
	case p.Channels+p.Blobs > 0:
		f.Log.Info("a repository of this machine is pruned", "repository", repository, "channels", p.Channels, "blobs", p.Blobs, "bytes", p.Bytes)
	}
}
