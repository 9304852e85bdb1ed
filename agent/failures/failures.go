// Package failures keeps what fails again and again: the readings of a repository, and the
// refreshes of an instance. A user is notified once, when that has lasted for as long as
// policy lets it (see schedule.failure-notice in package policy).
//
// Words: a failure begins with the first failure after a success, and ends with the next
// success. It is due when it has lasted long enough, and notified when a user's helper has
// received it. It outlives the agent: a restart begins no new failure, and repeats no notice.
//
// A List may be used from any goroutine. No reader waits for the disk.
package failures

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// Kind is what has failed.
type Kind string

// The kinds. Name is that of the repository or the instance.
const (
	Repository Kind = "repository"
	Package    Kind = "package"
)

// Failure is a repository that cannot be read, or an instance that cannot be refreshed.
type Failure struct {
	Kind  Kind         `json:"kind"`
	Name  string       `json:"name"`
	Since time.Time    `json:"since"` // of the first failure after the last success
	Error errkind.Kind `json:"error"` // of the last one
	Text  string       `json:"text"`
	// Made is how the text was made, so that it can be translated also after a restart.
	Made map[string]errkind.Sentence `json:"made,omitempty"`
	// Notified is the user whose helper has received it; nil means none.
	Notified *uint32 `json:"notified,omitempty"`
}

// file is the name of the list below the root.
const file = "failures.json"

// List has the failures that last.
type List struct {
	path    string
	log     *slog.Logger
	changed func()

	writing sync.Mutex // one edit at a time, from its change to its file

	mu  sync.Mutex // guards all; held over memory only
	all []Failure
}

// Open reads the list of an earlier agent. changed is called after each change of the list, and must not
// block. A list that cannot be read is empty: then failures begin later.
func Open(root string, log *slog.Logger, changed func()) *List {
	l := &List{path: filepath.Join(root, file), log: log, changed: changed}
	b, err := os.ReadFile(l.path)
	if err == nil {
		err = json.Unmarshal(b, &l.all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("cannot read which repositories and refreshes have failed", "error", err)
		l.all = nil
	}
	return l
}

// Note records the result of a reading or a refresh at a time; nil means that it has
// succeeded. An interruption is no result.
func (l *List) Note(kind Kind, name string, err error, now time.Time) {
	if errkind.Is(err, errkind.Interrupted) {
		return
	}
	l.edit(func() bool {
		i := slices.IndexFunc(l.all, func(f Failure) bool { return f.Kind == kind && f.Name == name })
		switch {
		case err == nil && i < 0:
			return false
		case err == nil:
			l.all = slices.Delete(l.all, i, i+1)
			return true
		case i < 0:
			l.all = append(l.all, Failure{Kind: kind, Name: name, Since: now.Round(0)})
			i = len(l.all) - 1
		}
		f := &l.all[i]
		since, kind, text := f.Since, f.Error, f.Text
		if f.Since.After(now) { // the clock was put back
			f.Since = now.Round(0)
		}
		if f.Error, f.Text = errkind.KindOf(err), err.Error(); f.Text != text {
			f.Made = errkind.Sentences([]string{f.Text})
		}
		return f.Since != since || f.Error != kind || f.Text != text
	})
}

// Keep drops the failures of a kind whose repository or instance has gone.
func (l *List) Keep(kind Kind, there func(name string) bool) {
	l.edit(func() bool {
		before := len(l.all)
		l.all = slices.DeleteFunc(l.all, func(f Failure) bool { return f.Kind == kind && !there(f.Name) })
		return len(l.all) != before
	})
}

// NoteNotified records that a user has received a failure, unless another one has before.
func (l *List) NoteNotified(of Failure, uid uint32) {
	l.edit(func() bool {
		for i := range l.all {
			if f := &l.all[i]; f.Kind == of.Kind && f.Name == of.Name && f.Since.Equal(of.Since) && f.Notified == nil {
				f.Notified = &uid
				return true
			}
		}
		return false
	})
}

// Due returns the failures that have lasted for after at a time, the oldest first. Zero means
// that none ever is due.
func (l *List) Due(after time.Duration, now time.Time) (due []Failure) {
	if after <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.all {
		if now.Sub(f.Since) >= after {
			due = append(due, f)
		}
	}
	slices.SortStableFunc(due, func(a, b Failure) int { return a.Since.Compare(b.Since) })
	return due
}

// edit changes the list, and writes it if change returns true.
func (l *List) edit(change func() bool) {
	if l.write(change) {
		l.changed()
	}
}

func (l *List) write(change func() bool) bool {
	l.writing.Lock()
	defer l.writing.Unlock()
	b, yes, err := l.apply(change)
	if yes && err == nil {
		err = durable.WriteFile(l.path, b, 0o600)
	}
	if err != nil {
		l.log.Warn("cannot keep which repositories and refreshes have failed", "error", err)
	}
	return yes
}

// apply changes the list in memory, and returns the content of its file.
func (l *List) apply(change func() bool) (content []byte, yes bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !change() {
		return nil, false, nil
	}
	content, err = json.Marshal(l.all)
	return content, true, err
}
