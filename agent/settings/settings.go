// Package settings reads the policy and the list of the system's packages from the
// configuration directory. After an administrator's mistake the agent goes on with what could
// be used last, also after a restart.
package settings

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/policy"
	"github.com/lull/lull/policy/strictyaml"
)

// Dir is a configuration directory.
type Dir string

// PolicyFile is the path of the policy.
func (d Dir) PolicyFile() string { return filepath.Join(string(d), "policy.yaml") }

// Dropins is the directory of files that are merged into the policy.
func (d Dir) Dropins() string { return filepath.Join(string(d), "policy.d") }

// Repositories is the directory with a file for each repository.
func (d Dir) Repositories() string { return filepath.Join(string(d), "repos.d") }

// SystemFile is the path of the list of the system's packages.
func (d Dir) SystemFile() string { return filepath.Join(string(d), "system.yaml") }

// System is the content of system.yaml, which the builder of a system image writes:
// package hashes. Base packages are the system itself, and cache packages must be available
// offline; neither is ever collected. A package that is not resident yet is protected from
// the moment it is.
type System struct {
	Base  []digest.Digest `yaml:"base" json:"base"`
	Cache []digest.Digest `yaml:"cache" json:"cache"`
}

// ParseSystem reads system.yaml; a missing file names nothing. An error of kind BadPolicy
// names file and line.
func (d Dir) ParseSystem() (s System, err error) {
	path := d.SystemFile()
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil:
		err = strictyaml.Decode(path, b, &s)
	}
	if err != nil {
		return System{}, errkind.New(errkind.BadPolicy, "%w", err)
	}
	return s, nil
}

// Settings are what was read last. Read them with Policy and System from any goroutine; one
// at a time may read the files anew.
type Settings struct {
	Dir
	root string
	log  *slog.Logger

	policy  atomic.Pointer[policy.Policy]
	system  atomic.Pointer[System] // nil if nothing is known
	reading atomic.Pointer[reading]
}

// reading is the result of the last reading.
type reading struct {
	at             time.Time
	policy, system error // what was read earlier stays in force
}

// Open reads the files. If they cannot be used, those that could be used last serve, which are
// kept below root. If there are none the policy is a cautious one, and the system is unknown.
func Open(dir, root string, log *slog.Logger) *Settings {
	s := &Settings{Dir: Dir(dir), root: root, log: log}
	r := reading{at: time.Now()}
	var p *policy.Policy
	if p, r.policy = s.firstPolicy(); p != nil {
		s.policy.Store(p)
	}
	var sys *System
	if sys, r.system = s.firstSystem(); sys != nil {
		s.system.Store(sys)
	}
	s.reading.Store(&r)
	return s
}

// Policy returns the policy in force.
func (s *Settings) Policy() *policy.Policy { return s.policy.Load() }

// System returns the list in force; false means that nothing is known of it, so that any
// package may belong to the system.
func (s *Settings) System() (System, bool) {
	if sys := s.system.Load(); sys != nil {
		return *sys, true
	}
	return System{}, false
}

// Refused returns when the files were read last, and an error of kind BadPolicy about those
// that were refused then; nil means none.
func (s *Settings) Refused() (at time.Time, err error) {
	r := s.reading.Load()
	return r.at, Join(r.policy, r.system)
}

// Reload reads the files anew. Each usable one takes effect, regardless of the others. It
// reports which took effect: the error of the last reading is Refused's.
func (s *Settings) Reload() (policyRead, systemRead bool) {
	r := reading{at: time.Now()}
	p, err := s.readPolicy()
	if r.policy = err; err == nil {
		s.policy.Store(p)
	}
	sys, err := s.readSystem()
	if r.system = err; err == nil {
		s.system.Store(sys)
	}
	s.reading.Store(&r)
	return r.policy == nil, r.system == nil
}

func (s *Settings) readPolicy() (*policy.Policy, error) {
	files, err := policy.Read(s.PolicyFile(), s.Dropins())
	if err != nil {
		return nil, err
	}
	p, err := policy.Merge(files)
	if err == nil {
		if files == nil {
			files = []policy.File{} // the absence of files is recorded, too
		}
		s.keep(func(g *lastGood) { g.Policy = files })
	}
	return p, err
}

func (s *Settings) readSystem() (*System, error) {
	sys, err := s.ParseSystem()
	if err != nil {
		return nil, err
	}
	s.keep(func(g *lastGood) { g.System = &sys })
	return &sys, nil
}

// firstPolicy returns the policy at a start: that of the files, else the last usable one,
// else a cautious one. err is the error in the files.
func (s *Settings) firstPolicy() (p *policy.Policy, err error) {
	p, err = s.readPolicy()
	if err == nil {
		return p, nil
	}
	if g := s.kept(); g.Policy != nil {
		last, lerr := policy.Merge(g.Policy)
		if lerr == nil {
			s.log.Error("the policy is refused, the last one that could be used holds", messages.Key, messages.PolicyRefused, "error", err)
			return last, err
		}
		s.log.Error("the last policy that could be used is refused, too", "error", lerr)
	}
	s.log.Error("the policy is refused, and none from before is known: nothing is refreshed by itself", messages.Key, messages.PolicyRefused, "error", err)
	return policy.Cautious(), err
}

// firstSystem does the same for system.yaml; nil means that nothing is known.
func (s *Settings) firstSystem() (*System, error) {
	sys, err := s.readSystem()
	if err == nil {
		return sys, nil
	}
	s.log.Error("the list of the system's packages is refused, the last one that could be used holds", messages.Key, messages.PolicyRefused, "error", err)
	return s.kept().System, err
}

// lastGoodFile is a file below the root: the last usable policy files and system.yaml. After
// an administrator's mistake the agent starts with these, instead of not at all.
const lastGoodFile = "last-good.json"

// lastGood is the content of that file; a nil field was never read.
type lastGood struct {
	Policy []policy.File `json:"policy"`
	System *System       `json:"system"`
}

func (s *Settings) kept() (g lastGood) {
	data, err := os.ReadFile(filepath.Join(s.root, lastGoodFile))
	if errors.Is(err, fs.ErrNotExist) {
		return g
	}
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		s.log.Error("the last policy that could be used cannot be read", "error", err)
		return lastGood{}
	}
	return g
}

// keep stores the files in use. On a root that cannot be written the former content stays.
func (s *Settings) keep(change func(*lastGood)) {
	old := s.kept()
	g := old
	change(&g)
	before, _ := json.Marshal(old)
	data, err := json.Marshal(g)
	if err == nil && string(before) != string(data) {
		err = durable.WriteFile(filepath.Join(s.root, lastGoodFile), data, 0o600)
	}
	if err != nil {
		s.log.Warn("the policy that is in use cannot be kept for a start with a broken one", "error", err)
	}
}

// Join joins errors to one of kind BadPolicy, on one line; nil means that there are none.
func Join(errs ...error) error {
	text := ""
	var hint string
	for _, err := range errs {
		if err == nil {
			continue
		}
		for _, line := range strings.Split(err.Error(), "\n") {
			if text != "" {
				text += "; "
			}
			text += line
		}
		if hint == "" {
			hint = errkind.HintOf(err)
		}
	}
	if text == "" {
		return nil
	}
	return &errkind.Error{Kind: errkind.BadPolicy, Text: text, Hint: hint, Err: errors.Join(errs...)}
}
