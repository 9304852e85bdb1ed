package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/e2e/rig"
)

// playLeases measures how long a refresh needs under the exclusive lock to determine
// that nothing runs, on a machine with many processes and for a package with many
// executable files; beside it, what reading /proc would take there.
func playLeases(tb rig.TB) results {
	const processes, files, turns = 5000, 1000, 200
	must := func(err error) {
		if err != nil {
			tb.Fatalf("cannot set the scene: %v", err)
		}
	}
	dir := tempDir(tb)
	tether := filepath.Join(dir, "tether")
	must(os.WriteFile(tether, nil, 0o644))
	var paths []string
	for i := range files {
		path := filepath.Join(dir, fmt.Sprint(i))
		must(os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755))
		paths = append(paths, path)
	}
	crowd := exec.CommandContext(tb.Context(), filepath.Join(programs(tb), "crowd"), fmt.Sprint(processes))
	in, err := crowd.StdinPipe()
	must(err)
	out, err := crowd.StdoutPipe()
	must(err)
	must(crowd.Start())
	tb.Cleanup(func() { in.Close(); crowd.Process.Kill(); crowd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		tb.Fatalf("there are no %d processes: %v", processes, err)
	}
	leases := vacancy.NewLeases()
	var s samples
	var opening, reading []float64
	for turn := range turns {
		began := time.Now()
		seal, err := leases.Open(tether, paths)
		must(err)
		opening = append(opening, ms(time.Since(began)))
		began = time.Now()
		r := seal.Take()
		s.Ours = append(s.Ours, ms(time.Since(began)))
		if !r.Granted() {
			tb.Fatalf("it is not vacant: %+v", r)
		}
		seal.Close()
		if turn%20 == 0 {
			began = time.Now()
			o, err := vacancy.Scan(tb.Context(), 0, vacancy.Query{Files: map[vacancy.Inode]bool{{}: true}, Deep: true})
			must(err)
			if !o.Complete {
				tb.Fatalf("a scan was broken off")
			}
			reading = append(reading, ms(time.Since(began)))
		}
	}
	s.Notes = []string{
		fmt.Sprintf("%d processes, %d executable files and the tether, on %s; before the lock the files are opened: %.2f ms", processes, files, fileSystem(dir), median(opening)),
		fmt.Sprintf("reading executables, mappings and descriptors of all processes instead: %.0f ms", median(reading)),
	}
	return results{"vacancy-5000": s}
}
