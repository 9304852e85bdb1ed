package api

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/files"
	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/local"
	bus "github.com/lull/lull/dbus"
)

// uploads are the files that clients have sent. Each belongs to one connection and goes
// with it.
type uploads struct {
	mu   sync.Mutex
	list map[string]*upload // guarded by mu
	next int                // guarded by mu
}

// upload is one of them. Its goroutine receives it and deletes it at the end.
type upload struct {
	*local.Upload
	owner string // unique name on the bus
	of    uint32 // the user, also of a subordinate UID
	end   context.CancelFunc
}

const (
	// maxUploads bounds those of one user. A program is installed with the libraries that the machine
	// lacks: Okular on a new GNOME desktop of Debian 13 has 257 packages, and Kdenlive with all that
	// it recommends 576, the most of 16 large programs.
	maxUploads = 1024
	maxUpload  = time.Hour // the time for which an upload is kept
)

// SendFile implements bus.Manager.
func (o managerObject) SendFile(c bus.Caller, name string) (content *os.File, id string, err error) {
	if err := o.s.auth.Check(c, authz.InstallFile); err != nil {
		return nil, "", err
	}
	uid, err := c.UID()
	if err != nil {
		return nil, "", err
	}
	u, content, err := o.s.m.Local().NewUpload(name)
	if err != nil {
		return nil, "", err
	}
	ctx, end := context.WithTimeout(o.s.ctx, maxUpload)
	id, err = o.s.uploads.add(&upload{Upload: u, owner: c.Sender, of: accounts.Of(uid), end: end})
	if err != nil {
		end()
	}
	o.s.wg.Go(func() { // also after an error: it deletes
		u.Receive(ctx)
		<-ctx.Done()
		o.s.uploads.drop(id)
		if err := u.Remove(); err != nil {
			o.s.log.Warn("cannot delete a received file", "file", name, "error", err)
		}
	})
	if err != nil {
		content.Close()
		return nil, "", err
	}
	stop, err := o.s.names.Watch(ctx, c.Sender, func(owner string) {
		if owner == "" {
			end()
		}
	})
	if err != nil {
		end()
		content.Close()
		return nil, "", err
	}
	context.AfterFunc(ctx, stop)
	return content, id, nil
}

func (x *uploads) add(u *upload) (id string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	count := 0
	for _, other := range x.list {
		if other.of == u.of {
			count++
		}
	}
	if count >= maxUploads {
		return "", errkind.New(errkind.LimitsExceeded, "cannot receive the file %s: %d files of user %s are here already", u.Name, count, accounts.Name(u.of))
	}
	x.next++
	id = strconv.Itoa(x.next)
	x.list[id] = u
	return id, nil
}

func (x *uploads) drop(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.list, id)
}

// of returns uploads of a connection.
func (x *uploads) of(owner string, ids []string) (list []*upload, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, id := range ids {
		u := x.list[id]
		if u == nil || u.owner != owner {
			return nil, errkind.New(errkind.NotFound, "cannot find the file %.40q: the caller has not sent it, or it was used", id)
		}
		list = append(list, u)
	}
	if len(list) == 0 {
		return nil, errkind.New(errkind.Invalid, "cannot install files: none is named")
	}
	return list, nil
}

// InstallFiles implements bus.Manager. The caller's end is the end of it, until the
// refresh has begun.
func (o managerObject) InstallFiles(c bus.Caller, ids []string, opt bus.InstallFilesOptions) (dbus.ObjectPath, bus.ConvertedPackage, error) {
	none := bus.ConvertedPackage{}
	if err := o.s.auth.Check(c, authz.InstallFile); err != nil {
		return noPath, none, err
	}
	list, err := o.s.uploads.of(c.Sender, ids)
	if err != nil {
		return noPath, none, err
	}
	ctx, cancel := context.WithCancel(o.asked(c))
	defer cancel()
	stop, err := o.s.names.Watch(ctx, c.Sender, func(owner string) {
		if owner == "" {
			cancel()
		}
	})
	if err != nil {
		return noPath, none, err
	}
	defer stop()
	var sent []*local.Upload
	for _, u := range list {
		sent = append(sent, u.Upload)
	}
	r, p, err := o.s.m.Files().Install(ctx, sent, files.Options{
		Options: local.Options{Name: opt.Name, Version: opt.Version, LullYAML: opt.LullYaml},
		Key:     opt.Key, Older: opt.Older, Confirm: opt.Confirm, Progress: o.s.making(c.Sender, ids),
	})
	if err != nil || p.Confirm.IsZero() {
		for _, u := range list {
			u.end()
		}
	}
	if err != nil {
		return noPath, none, err
	}
	path, made := noPath, converted(p)
	if r.ID != "" {
		path, err = o.started(r, nil)
	}
	return path, made, err
}

// making returns a function that shows the sender of files how far the making of their package
// is: each step at its beginning and its end, and in between not too often.
func (s *Service) making(sender string, ids []string) files.Progress {
	var mu sync.Mutex
	var shown time.Time
	var last string
	return func(step string, done, total int64) {
		mu.Lock()
		now := time.Now()
		due := step != last || done >= total || now.Sub(shown) >= jobProgressEvery
		if due {
			last, shown = step, now
		}
		mu.Unlock()
		if !due {
			return
		}
		sig := bus.ManagerFilesProgress{Ids: ids, Step: step, Done: uint64(done), Total: uint64(total)}
		if err := s.server.SendTo(sender, bus.AgentPath, sig); err != nil {
			s.log.Debug("cannot show the progress of files", "error", err)
		}
	}
}

// ResolveFiles implements bus.Manager: it is Resolve for files.
func (o managerObject) ResolveFiles(c bus.Caller, ids []string, opt bus.ResolveFilesOptions) (dir, end *os.File, hash, name, version string, err error) {
	fail := func(err error) (*os.File, *os.File, string, string, string, error) { return nil, nil, "", "", "", err }
	if err := o.s.auth.Check(c, authz.InstallFile); err != nil {
		return fail(err)
	}
	cred, err := c.Credentials()
	if err != nil {
		return fail(err)
	}
	list, err := o.s.uploads.of(c.Sender, ids)
	if err != nil {
		return fail(err)
	}
	slot, err := o.s.m.Leases().Reserve(cred.UID, o.s.auth.Administrator(cred.UID))
	if err != nil {
		return fail(err)
	}
	defer slot.Cancel() // unless it is used
	ctx, cancel := context.WithCancel(o.s.ctx)
	defer cancel()
	stop, err := o.s.names.Watch(ctx, c.Sender, func(owner string) {
		if owner == "" {
			cancel()
		}
	})
	if err != nil {
		return fail(err)
	}
	defer stop()
	var sent []*local.Upload
	for _, u := range list {
		defer u.end()
		sent = append(sent, u.Upload)
	}
	holder := fmt.Sprintf("ephemeral run of the file %s, user %s", list[0].Name, accounts.Name(cred.UID))
	dir, lease, l, err := o.s.m.Files().Resolve(ctx, sent, local.Options{Name: opt.Name, Version: opt.Version, LullYAML: opt.LullYaml}, holder, cred.PID, o.s.making(c.Sender, ids))
	if err != nil {
		return fail(err)
	}
	if end, err = slot.Grant(lease, holder, cred.PID); err != nil {
		dir.Close()
		return fail(err)
	}
	return o.s.asSeenBy(cred.PID, dir), end, lease.Package().String(), l.Name, l.Version, nil
}

func converted(p files.Package) bus.ConvertedPackage {
	made := bus.ConvertedPackage{Name: p.Launch.Name, Version: p.Launch.Version, Title: p.Launch.Title, Instance: p.Instance,
		Rights: p.Rights, Remarks: p.Found.Remarks, Scripts: p.Found.Scripts, Needs: p.Found.Needs}
	if !p.Package.IsZero() {
		made.Hash = p.Package.String()
	}
	if !p.Confirm.IsZero() {
		made.Confirm = p.Confirm.String()
	}
	return made
}
