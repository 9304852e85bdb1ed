// Package estimate estimates how long a critical section takes, from the last durations of
// its parts and from their limits.
//
// The estimate decides which lock against shutdown a section needs, and whether one may
// begin while the machine goes down. An estimate that is too long costs a lock that blocks
// for some seconds, or a refresh that waits for the next boot. One that is too short costs a
// section that the power-off interrupts. So a part without a known duration counts with its
// limit.
//
// It is pure: no state, no clock.
package estimate

import "time"

// Part is one part of a section.
type Part struct {
	// Last is the last duration; zero means unknown.
	Last time.Duration
	// Limit is the longest duration, or a guess, for a part whose Last is unknown. With Hard
	// set it also bounds the duration that is expected from Last.
	Limit time.Duration
	Hard  bool
}

// Copy is an amount of data, and how long it took to copy it.
type Copy struct {
	Files int64 // files and symlinks
	Bytes int64 // of their content
	Took  time.Duration
}

// Below these amounts the duration of a copy depends on other things, and does not show the
// speed. The speed of a slow disk is used instead.
const (
	sampleFiles = 200
	sampleBytes = 8 << 20

	slowFile = time.Millisecond
	slowMiB  = time.Second / 32
)

// Data returns the part of a section that copies todo; todo.Took is how long it took to
// determine that amount. The duration is expected from the speed of earlier copies; the
// larger ones count. A copy of at most the last amount takes no longer than the last one, and
// a copy of at least that amount takes no less time.
func Data(todo, last Copy, earlier ...Copy) Part {
	perFile, perByte := slowFile.Seconds(), slowMiB.Seconds()/(1<<20)
	var files, bytes int64
	for _, c := range append(earlier, last) {
		if c.Files >= max(files, min(sampleFiles, todo.Files), 1) {
			files, perFile = c.Files, c.Took.Seconds()/float64(c.Files)
		}
		if c.Bytes >= max(bytes, min(sampleBytes, todo.Bytes), 1) {
			bytes, perByte = c.Bytes, c.Took.Seconds()/float64(c.Bytes)
		}
	}
	d := todo.Took + time.Duration(max(perFile*float64(todo.Files), perByte*float64(todo.Bytes))*float64(time.Second))
	if last.Took > 0 && todo.Files <= last.Files && todo.Bytes <= last.Bytes {
		d = min(d, last.Took)
	}
	if last.Took > 0 && todo.Files >= last.Files && todo.Bytes >= last.Bytes {
		d = max(d, last.Took)
	}
	return Part{Last: max(d, 1)}
}

// base is the duration of the work in every section: markers, links, exports, and their
// flushes.
const base = time.Second

// Section returns how long the parts may take, one after the other, in whole seconds.
// The last duration counts one and a half times.
func Section(parts ...Part) time.Duration {
	sum := base
	for _, p := range parts {
		d := p.Last + p.Last/2
		if p.Last == 0 || p.Hard && d > p.Limit {
			d = p.Limit
		}
		sum += d
	}
	return sum.Round(time.Second)
}
