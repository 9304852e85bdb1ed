package api

import (
	"github.com/lull/lull/agent/authz"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/sysupdate"
	bus "github.com/lull/lull/dbus"
)

// systemObject implements bus.System.
type systemObject struct{ s *Service }

// may authorizes all methods. The effects of an allowed method are on the bus,
// as properties, before its answer.
func (o systemObject) may(c bus.Caller, do func() error) error {
	err := o.s.auth.Check(c, authz.SystemUpdate)
	if err == nil {
		err = do()
		o.s.updateSystem()
	}
	return err
}

func (o systemObject) Stage(c bus.Caller, update string, opt bus.StageOptions) error {
	return o.may(c, func() error { return o.s.m.Updater().Stage(o.s.ctx, update, opt.Repository) })
}

func (o systemObject) Commit(c bus.Caller) error {
	return o.may(c, func() error { return o.s.m.Updater().Commit(o.s.ctx) })
}

func (o systemObject) Rollback(c bus.Caller) error { return o.may(c, o.s.m.Updater().Rollback) }

// updateSystem shows the sets as properties. A set that one call has read and
// shown is not overtaken by another.
func (s *Service) updateSystem() {
	s.system.Update(func(p *bus.SystemProperties) {
		st := s.m.System()
		*p = bus.SystemProperties{State: st.State, Step: st.Step, Asked: st.Asked, Running: st.Running, BytesDone: uint64(max(st.Done, 0)), BytesTotal: uint64(max(st.Total, 0))}
		set := func(from *sysupdate.Set, version, hash *string) {
			if from != nil {
				*version, *hash = from.Version, from.Update.String()
			}
		}
		set(st.Committed, &p.Committed, &p.CommittedHash)
		set(st.Booted, &p.Booted, &p.BootedHash)
		set(st.Staged, &p.Staged, &p.StagedHash)
		if st.Err != nil {
			p.ErrorName, p.ErrorText, p.ErrorHint = errkind.Prefix+string(errkind.KindOf(st.Err)), st.Err.Error(), errkind.HintOf(st.Err)
		}
		if err := s.m.CollectionRefused(); err != nil {
			p.CollectionRefused = err.Error()
		}
	})
}
