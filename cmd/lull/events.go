package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// progressJSON is a line that `lull --events` writes before the document of the command, as long
// as the command goes on.
type progressJSON struct {
	output.Document
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`             // progress
	Name       string    `json:"name"`              // of the instance, of the first file that is read, or store or system
	Refresh    string    `json:"refresh,omitempty"` // its id
	State      string    `json:"state"`             // of the refresh; of other work: preparing
	Step       string    `json:"step,omitempty"`    // of a refresh, or convert, compress, fetch, verify, collect, health
	BytesDone  uint64    `json:"bytes-done"`        // of the step
	BytesTotal uint64    `json:"bytes-total"`       // of the step; zero means that it does not count bytes
}

// Progress returns the lines of --events, or what the Printer has.
func (a *app) Progress() output.Progress {
	if !a.events {
		return a.Printer.Progress()
	}
	e := &eventLines{app: a, last: map[dbus.ObjectPath]progressJSON{}, broken: make(chan os.Signal, 1)}
	signal.Notify(e.broken, syscall.SIGPIPE)
	return e
}

// eventsEvery is how often the bytes of one step are written at most.
const eventsEvery = 200 * time.Millisecond

// eventLines writes progress as documents. A closed pipe does not end the process: what it has
// made is deleted first, and the document at the end has the error.
type eventLines struct {
	app    *app
	last   map[dbus.ObjectPath]progressJSON
	broken chan os.Signal // SIGPIPE
	failed bool
}

func (e *eventLines) Update(path dbus.ObjectPath, p bus.RefreshProperties) {
	if e.failed || p.Instance == "" {
		return
	}
	now, last := e.app.Now(), e.last[path]
	j := progressJSON{output.One, now, "progress", p.Instance, p.ID, p.State, p.Step, p.BytesDone, p.BytesTotal}
	switch {
	case j.State != last.State || j.Step != last.Step:
	case j.BytesDone == last.BytesDone && j.BytesTotal == last.BytesTotal:
		return
	case j.BytesDone < j.BytesTotal && now.Sub(last.Time) < eventsEvery:
		return
	}
	e.last[path] = j
	e.failed = e.app.WriteLine(j) != nil
}

// Close keeps SIGPIPE harmless if a line could not be written, for the clean-up of the command.
func (e *eventLines) Close() {
	if !e.failed {
		signal.Stop(e.broken)
	}
}
