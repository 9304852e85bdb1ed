// Command bench measures lull beside its peers and writes the result to
// docs/bench.json and docs/bench.svg. `make bench` runs it; `make bench ID=gc`
// runs one row and leaves the other rows of the file as they are.
//
// Words:
//
//   - a row is one figure with its peer and its goal (rows.go lists all)
//   - a scene is what must be set up to take the samples of one row or several;
//     play returns them
//   - a sample is one measurement, in the unit of its row; ours and theirs are
//     taken in turns, so that other load of the machine affects both
//   - the figure of a row is the median of its samples
//
// A new row is an entry in a scene of rows.go and, in the scene's own file, the
// few lines that take its samples: see scene_release.go for a small one.
//
// A scene that needs systemd is played in a container, by this same program,
// which then prints the samples instead of a report. Everything runs in one
// goroutine, but for an observer's (observe.go).
package main
