package manager

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/store/index"
	"github.com/lull/lull/policy"
)

// lastGoodFile is a file below the root: the last usable policy files and system.yaml. After
// an administrator's mistake the agent starts with these, instead of not at all.
const lastGoodFile = "last-good.json"

// lastGood is the content of that file; a nil field was never read.
type lastGood struct {
	Policy []policy.File `json:"policy"`
	System *systemFile   `json:"system"`
}

func (m *Manager) readLastGood() (g lastGood) {
	data, err := os.ReadFile(filepath.Join(m.Root, lastGoodFile))
	if errors.Is(err, fs.ErrNotExist) {
		return g
	}
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		m.Log.Error("the last policy that could be used cannot be read", "error", err)
		return lastGood{}
	}
	return g
}

// keepLastGood stores the files in use. On a root that cannot be written the former content
// stays.
func (m *Manager) keepLastGood(change func(*lastGood)) {
	old := m.readLastGood()
	g := old
	change(&g)
	before, _ := json.Marshal(old)
	data, err := json.Marshal(g)
	if err == nil && string(before) != string(data) {
		err = durable.WriteFile(filepath.Join(m.Root, lastGoodFile), data, 0o600)
	}
	if err != nil {
		m.Log.Warn("the policy that is in use cannot be kept for a start with a broken one", "error", err)
	}
}

// readPolicy returns the policy of the files.
func (m *Manager) readPolicy() (*policy.Policy, error) {
	files, err := policy.Read(m.policyFile(), m.dropins())
	if err != nil {
		return nil, err
	}
	p, err := policy.Merge(files)
	if err == nil {
		if files == nil {
			files = []policy.File{} // the absence of files is recorded, too
		}
		m.keepLastGood(func(g *lastGood) { g.Policy = files })
	}
	return p, err
}

// firstPolicy returns the policy at a start: that of the files, else the last usable one,
// else a cautious one. err is the error in the files.
func (m *Manager) firstPolicy() (p *policy.Policy, err error) {
	p, err = m.readPolicy()
	if err == nil {
		return p, nil
	}
	if g := m.readLastGood(); g.Policy != nil {
		last, lerr := policy.Merge(g.Policy)
		if lerr == nil {
			m.Log.Error("the policy is refused, the last one that could be used holds", messages.Key, messages.PolicyRefused, "error", err)
			return last, err
		}
		m.Log.Error("the last policy that could be used is refused, too", "error", lerr)
	}
	m.Log.Error("the policy is refused, and none from before is known: nothing is refreshed by itself", messages.Key, messages.PolicyRefused, "error", err)
	return policy.Cautious(), err
}

// firstSystem does the same for system.yaml. If nothing is known of it, any package may
// belong to the system, and nothing is collected.
func (m *Manager) firstSystem() (f systemFile, err error) {
	f, err = m.readSystem()
	if err == nil {
		return f, nil
	}
	m.Log.Error("the list of the system's packages is refused, the last one that could be used holds", messages.Key, messages.PolicyRefused, "error", err)
	if g := m.readLastGood(); g.System != nil {
		return *g.System, err
	}
	m.systemUnknown.Store(true)
	return f, err
}

// doubtfulSystem protects all packages while those of the system are unknown.
func (m *Manager) doubtfulSystem() []index.Root {
	if m.systemUnknown.Load() {
		return []index.Root{{Holder: "the system, whose list of packages (system.yaml) cannot be read"}}
	}
	return nil
}

// ConfigError returns what is wrong with the files in the configuration directory, as they
// were read last; nil means nothing. The earlier content of a wrong file stays in force. A
// repository whose file is broken is left out.
func (m *Manager) ConfigError() error {
	var all []error
	if err := m.PolicyError(); err != nil {
		all = append(all, err)
	}
	if err := m.repos.Broken(); err != nil {
		all = append(all, err)
	}
	return joinConfig(all...)
}

// joinConfig joins errors to one of kind BadPolicy, on one line.
func joinConfig(errs ...error) error {
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

// Reload re-reads the policy, the repositories and the system's list. Each usable one takes
// effect, regardless of the others; the error names those that do not.
func (m *Manager) Reload() error {
	m.reloading.Lock()
	defer m.reloading.Unlock()
	if m.Reloading != nil {
		defer m.Reloading()()
	}
	at := time.Now()
	p, perr := m.readPolicy()
	sets, serr := m.readSystem()
	rerr := m.repos.Load()
	if perr == nil {
		m.policy.Store(p)
		m.indices.KeepRecent(p.GC.KeepRecent)
	}
	var aerr error
	if serr == nil {
		m.systemUnknown.Store(false)
		aerr = m.system.SetFactory(sets.Base, sets.Cache)
	}
	m.engine.Wake("")
	m.checker.Changed()
	m.metrics.Touch()
	aerr = errors.Join(aerr, m.space.SetReserve(), m.prune(), m.publishInstalled(""))
	refused := joinConfig(perr, serr)
	all := joinConfig(perr, serr, rerr)
	m.policyRead.Store(&reading{at: at, err: refused})
	if all != nil {
		m.Log.Error("not all of the configuration can be used; what was read before it stays", messages.Key, messages.PolicyRefused, "error", all)
	} else {
		m.Log.Info("policy and repositories were read again", messages.Key, messages.PolicyLoaded)
	}
	m.observer.PolicyChanged()
	m.observer.RepositoriesChanged()
	if all != nil {
		return all
	}
	return aerr
}
