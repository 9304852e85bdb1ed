package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// playEphemeral runs a tiny resident package that is not installed, from a repository of
// 10,000 packages and from one of two, beside a plain start of the same program and a
// container of podman.
func playEphemeral(tb rig.TB) results {
	const name, few, many = "org.lull.ephemeral", 2, 10_000
	const atOnce, rounds = 20, 15
	myTurn(tb)
	program := filepath.Join(programs(tb), "empty")
	run := func(size int) (*stage, func() float64) {
		s := &stage{World: rig.New(tb, rig.Options{})}
		s.Configure("policy.yaml", quiet)
		s.api = s.Bus.Watch()
		r := newShelf(tb, size-1, false)
		s.Repo = r.dir
		s.start()
		s.publish(name, "1", program, "")
		s.MustLull("repo", "add", "local", s.Repo)
		s.MustLull("run", "--ephemeral", name)
		return s, s.starterOf(s.Admin, "lull", "run", "--ephemeral", name)
	}
	small, theirs := run(few)
	large, ours := run(many)
	takers := []func() float64{small.starterOf(small.Admin, program), ours, theirs}
	peer, container := podman(small, program)
	if container != nil {
		takers = append(takers, container)
	}
	got := inTurns(5, 50, takers...)
	_, before := large.effort()
	beside := inTurns(1, rounds, ours, func() float64 { return large.atOnce(atOnce, "run", "--ephemeral", name) })
	_, after := large.effort()
	notes := []string{
		fmt.Sprintf("plain exec %.2f ms; %d packages in the repository: %.2f ms, %d: %.2f ms", median(got[0]), few, median(got[2]), many, median(got[1])),
		peer,
	}
	if container != nil {
		notes[1] = fmt.Sprintf("%s of the same program: %.2f ms", peer, median(got[3]))
	}
	return results{
		"ephemeral": samples{Ours: got[1], Theirs: got[2], Notes: notes},
		"ephemeral-20": samples{Ours: beside[1], Theirs: beside[0], Notes: []string{
			fmt.Sprintf("%d rounds of %d at once, %d CPUs; CPU of the agent for each run: %.2f ms", rounds, atOnce, runtime.NumCPU(), (after-before)/((rounds+1)*(atOnce+1))),
		}},
	}
}

// atOnce is the time of n commands that run beside each other, divided by n, in milliseconds.
func (s *stage) atOnce(n int, args ...string) float64 {
	var all sync.WaitGroup
	begun := time.Now()
	for range n {
		all.Go(func() { s.Admin.Must("lull", args...) })
	}
	all.Wait()
	return ms(time.Since(begun)) / float64(n)
}

// podman prepares an image of the program alone, and returns what starts a container of it;
// nil where podman cannot do that here.
func podman(s *stage, program string) (what string, start func() float64) {
	path, err := exec.LookPath("podman")
	if err != nil {
		return "podman is not installed", nil
	}
	tool := func(args ...string) (string, error) {
		out, err := exec.CommandContext(s.Context(), path, args...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	const image = "localhost/lull-bench"
	archive := filepath.Join(tempDir(s), "image.tar")
	if out, err := exec.CommandContext(s.Context(), "tar", "-C", filepath.Dir(program), "-cf", archive, filepath.Base(program)).CombinedOutput(); err != nil {
		s.Fatalf("cannot make an image: %v: %s", err, out)
	}
	if out, err := tool("import", archive, image); err != nil {
		return "podman cannot import an image here: " + firstOf(out), nil
	}
	s.Cleanup(func() { _, _ = tool("rmi", "--force", image) })
	version, _ := tool("--version")
	// The preset limits are above those that a container of CI may set, and crun refuses a
	// machine with both hierarchies of cgroups.
	run := []string{"run", "--rm", "--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", image, "/" + filepath.Base(program)}
	out := ""
	for _, runtime := range []string{"crun", "runc"} {
		argv := append([]string{path, "--runtime=" + runtime}, run...)
		if out, err = tool(argv[1:]...); err == nil {
			return "podman run --rm (" + version + ", " + runtime + ")", s.starterOf(s.Admin, argv...)
		}
	}
	return "podman cannot run a container here: " + firstOf(out), nil
}

// firstOf is the first line of a text.
func firstOf(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
