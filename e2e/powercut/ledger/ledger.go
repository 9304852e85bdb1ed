// Package ledger is data that can prove its integrity. A ledger is a directory
// with a few dozen files. Step n replaces one of them, and all content follows
// from n: from the youngest file follows what every other one has to be. A mix
// of two states, a file of an earlier state, or half a file shows.
//
// A writer steps a ledger, one process at a time. Every step is on stable
// storage when it returns.
package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/durable"
)

const (
	files   = 24 // that steps replace
	ballast = 12 // that never change
	ready   = "ready"
	sealed  = "sealed"
	born    = "born"
)

// State is the record of a ledger about itself.
type State struct {
	Ready  bool // it was begun completely
	Step   int
	Sealed int // the step at which it was closed; -1 if it is open
	Born   int // the step at which the revision took it over
	By     int // that revision; 0 if none
}

// content is what a file holds after step n: a line that names it, and filling.
func content(n, file int) []byte {
	sum := sha256.Sum256(fmt.Append(nil, n, file))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %x\n", n, sum)
	size := 200 + int(sum[0])*40
	for b.Len() < size {
		sum = sha256.Sum256(sum[:])
		b.Write(sum[:])
	}
	return b.Bytes()
}

func name(file int) string { return "part-" + strconv.Itoa(file) }

func weight(i int) (string, []byte) {
	return filepath.Join("ballast", strconv.Itoa(i)), bytes.Repeat(content(i, -1), 1+i*2)
}

// Begin makes a ledger; what an earlier try has left is finished.
func Begin(dir string) error {
	if err := durable.MkdirAll(filepath.Join(dir, "ballast"), 0o755); err != nil {
		return err
	}
	for i := range ballast {
		name, b := weight(i)
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, name(i)), content(i, i), 0o644); err != nil {
			return err
		}
	}
	if err := durable.SyncFS(dir); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, ready), nil, 0o644)
}

// Step does one step after n.
func Step(dir string, n int) error {
	n++
	return durable.WriteFile(filepath.Join(dir, name(n%files)), content(n, n%files), 0o644)
}

// Seal marks the ledger as final.
func Seal(dir string, n int) error {
	return durable.WriteFile(filepath.Join(dir, sealed), []byte(strconv.Itoa(n)), 0o644)
}

// Unseal takes that back.
func Unseal(dir string) error {
	err := durable.Remove(filepath.Join(dir, sealed))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// TakeOver notes that a revision has begun with the ledger as it is.
func TakeOver(dir string, n, revision int) error {
	return durable.WriteFile(filepath.Join(dir, born), fmt.Appendf(nil, "%d %d", n, revision), 0o644)
}

// Read reads a whole ledger; an error names the damage.
func Read(dir string) (State, error) {
	s := State{Sealed: -1}
	if _, err := os.Stat(filepath.Join(dir, ready)); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	} else if err != nil {
		return s, err
	}
	s.Ready = true
	have := [files][]byte{}
	for i := range files {
		b, err := os.ReadFile(filepath.Join(dir, name(i)))
		if err != nil {
			return s, err
		}
		first, _, _ := strings.Cut(string(b[:min(len(b), 20)]), " ")
		n, err := strconv.Atoi(first)
		if err != nil {
			return s, fmt.Errorf("%s begins with %q", name(i), first)
		}
		have[i] = b
		s.Step = max(s.Step, n)
	}
	for i, b := range have {
		n := s.Step - (s.Step-i)%files
		if !bytes.Equal(b, content(n, i)) {
			return s, fmt.Errorf("%s is not that of step %d, which the ledger is at: it begins with %.20q", name(i), s.Step, b)
		}
	}
	for i := range ballast {
		name, want := weight(i)
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
			return s, err
		} else if !bytes.Equal(b, want) {
			return s, fmt.Errorf("%s has changed", name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, sealed)); err == nil {
		if s.Sealed, err = strconv.Atoi(string(b)); err != nil {
			return s, err
		}
		if s.Sealed != s.Step {
			return s, fmt.Errorf("it was sealed at step %d and is at step %d", s.Sealed, s.Step)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if b, err := os.ReadFile(filepath.Join(dir, born)); err == nil {
		if _, err := fmt.Sscan(string(b), &s.Born, &s.By); err != nil {
			return s, err
		}
		if s.Born > s.Step {
			return s, fmt.Errorf("it was taken over at step %d and is at step %d", s.Born, s.Step)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	return s, nil
}
