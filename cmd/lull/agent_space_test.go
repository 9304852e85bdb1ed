package main

import (
	"strconv"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
)

type fakeSpace struct {
	bus.Space
	at       func(method string)
	mu       sync.Mutex
	packages []bus.PackageUsage // guarded by mu
	findings []bus.Finding      // guarded by mu
	jobs     int                // guarded by mu
	noJobs   bool               // guarded by mu: as an agent from before there were jobs

	server *bus.Server
}

func (s *fakeSpace) set(packages []bus.PackageUsage, findings []bus.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packages, s.findings = packages, findings
}

func (s *fakeSpace) Plan(bus.Caller) ([]bus.PlannedBlob, []bus.PackageUsage, uint64, error) {
	s.at("Plan")
	s.mu.Lock()
	defer s.mu.Unlock()
	var blobs []bus.PlannedBlob
	var bytes uint64
	for _, p := range s.packages {
		if p.KeptBy == "" {
			blobs = append(blobs, bus.PlannedBlob{Hash: p.Hash, Bytes: p.Exclusive})
			bytes += p.Exclusive
		}
	}
	return blobs, s.packages, bytes, nil
}

func (s *fakeSpace) Collect(_ bus.Caller, o bus.CollectOptions) (uint32, uint32, uint64, error) {
	s.at("Collect")
	if o.Free == 7_000_000 {
		return 1, 1, 7_500_000, nil
	}
	return 3, 2, 12_000_000, nil
}

func (s *fakeSpace) Verify(_ bus.Caller, o bus.VerifyOptions) (uint32, []bus.Finding, error) {
	s.at("Verify")
	s.mu.Lock()
	defer s.mu.Unlock()
	found := append([]bus.Finding(nil), s.findings...)
	for i := range found {
		found[i].Repaired = o.Repair
	}
	return 120, found, nil
}

// The jobs have ended when their paths are returned.
func (s *fakeSpace) StartCollect(c bus.Caller, o bus.CollectOptions) (dbus.ObjectPath, error) {
	if s.older() {
		return "", lacks("Space.StartCollect")
	}
	blobs, packages, bytes, err := s.Collect(c, o)
	return s.ended(bus.JobProperties{Kind: "collect", FreedBlobs: blobs, FreedPackages: packages, FreedBytes: bytes}, err)
}

func (s *fakeSpace) StartVerify(c bus.Caller, o bus.VerifyOptions) (dbus.ObjectPath, error) {
	if s.older() {
		return "", lacks("Space.StartVerify")
	}
	checked, findings, err := s.Verify(c, o)
	return s.ended(bus.JobProperties{Kind: "verify", Checked: checked, Findings: findings}, err)
}

func (s *fakeSpace) older() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noJobs
}

// lacks returns an agent's error for a call of a missing method.
func lacks(method string) error {
	return dbus.NewError("org.freedesktop.DBus.Error.UnknownMethod", []any{"/org/lull/Agent1 has no method org.lull.Agent1." + method})
}

func (s *fakeSpace) ended(p bus.JobProperties, err error) (dbus.ObjectPath, error) {
	s.mu.Lock()
	s.jobs++
	p.ID = strconv.Itoa(s.jobs)
	s.mu.Unlock()
	p.State = "done"
	if err != nil {
		p.State, p.ErrorName, p.ErrorText, p.ErrorHint = "failed", errkind.Prefix+string(errkind.KindOf(err)), err.Error(), errkind.HintOf(err)
	}
	return bus.JobPath(p.ID), s.server.Export(bus.JobPath(p.ID), bus.ExportJob(nil, p))
}

// fakeSystem has decided before the request.
type fakeSystem struct {
	bus.System
	f *fakeAgent
}

func (s fakeSystem) Stage(bus.Caller, string, bus.StageOptions) error { s.f.at("Stage"); return nil }
func (s fakeSystem) StartCommit(bus.Caller) (dbus.ObjectPath, error) {
	if s.f.space.older() {
		return "", lacks("System.StartCommit")
	}
	s.f.at("Commit")
	return s.f.space.ended(bus.JobProperties{Kind: "commit"}, nil)
}
func (s fakeSystem) Commit(bus.Caller) error {
	if !s.f.space.older() {
		return errkind.New(errkind.Failed, "cannot be: the command follows a job")
	}
	s.f.at("Commit")
	return nil
}
func (s fakeSystem) Rollback(bus.Caller) error { s.f.at("Rollback"); return nil }
