package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/agent/state"
	"github.com/lull/lull/policy/strictyaml"
)

// systemFile is what whoever assembles a system image writes into system.yaml:
// package hashes. Base packages are the system itself, cache packages are to be
// available offline; neither is ever collected. A package that is not here is
// protected from the moment it is.
type systemFile struct {
	Base  []digest.Digest `yaml:"base"`
	Cache []digest.Digest `yaml:"cache"`
}

// readSystem reads system.yaml; a file that is not there names nothing. Kind
// BadPolicy names file and line.
func (m *Manager) readSystem() (f systemFile, err error) {
	path := filepath.Join(m.Conf, "system.yaml")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = strictyaml.Decode(path, b, &f)
	}
	if err != nil {
		return f, problem.New(problem.BadPolicy, "%w", err)
	}
	return f, nil
}

// setSystem puts the sets of the image into the indices.
func (m *Manager) setSystem(f systemFile) {
	m.indices.SetBase(rootsOf(f.Base))
	m.indices.SetCache(rootsOf(f.Cache))
}

// loadSets puts the durable sets into the indices.
func (m *Manager) loadSets() error {
	f, err := m.readSystem()
	if err != nil {
		return err
	}
	retained, err := m.state.Set(state.Retained)
	if err != nil {
		return err
	}
	unknown, err := m.unknownRetained()
	if err != nil {
		return err
	}
	m.setSystem(f)
	m.indices.SetRetained(append(rootsOf(retained), unknown...))
	return nil
}
