package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/rig"
)

// dataset is the data of one application.
type dataset struct {
	name  string
	files int
	bytes int64
}

// Big and small differ in the size of their files, few and big in their number.
var (
	bigData   = dataset{"org.lull.big", 20_000, 2_000_000_000}
	smallData = dataset{"org.lull.small", 20_000, 100_000_000}
	fewData   = dataset{"org.lull.few", 1_000, 100_000_000}
)

// playData refreshes applications whose data has changed a little since it was
// copied ahead, and measures how long the marker stands; in turns, the data is
// copied as a script would.
func playData(tb rig.TB) results {
	myTurn(tb)
	s := setStage(tb, rig.Options{})
	program := filepath.Join(programs(tb), "closing")
	sets := []dataset{bigData, smallData, fewData}
	for _, d := range sets {
		s.publish(d.name, "1", program, "data:\n  versioned: true\n")
	}
	s.install(bigData.name, smallData.name, fewData.name)
	for _, d := range sets {
		s.fill(d)
	}
	markers := observe(tb, filepath.Join(s.RunDir, "runctl"), unix.IN_MOVED_TO|unix.IN_DELETE)
	version := 1
	blocked := func(d dataset) func() float64 {
		return func() float64 {
			version++
			return s.blocked(d, version, program, markers)
		}
	}
	got := inTurns(1, 7, blocked(bigData), func() float64 { return s.copied(bigData) },
		blocked(smallData), func() float64 { return s.copied(smallData) }, blocked(fewData))
	files := fmt.Sprintf("%d files of mixed sizes, on %s; 1 %% of the files, about 1 %% of the bytes, is written anew", bigData.files, fileSystem(s.Store))
	return results{
		"data-blocked": {Ours: got[0], Theirs: got[1], Notes: []string{files,
			fmt.Sprintf("with 100 MB in as many files: %.0f ms, cp and sync %.0f ms", median(got[2]), median(got[3]))}},
		"data-flat": {Ours: got[0], Theirs: got[2], Notes: []string{"both in " + files,
			fmt.Sprintf("100 MB in %d files: %.0f ms", fewData.files, median(got[4]))}},
	}
}

// data is the directory with the data of the current revision.
func (s *stage) data(d dataset) string {
	link, err := os.Readlink(filepath.Join(s.Store, "current", d.name))
	if err != nil {
		s.Fatalf("%v", err)
	}
	return filepath.Join(s.Store, "data", d.name, filepath.Base(link))
}

// path names a file of the data.
func (d dataset) path(i int) string { return fmt.Sprintf("%02d/%02d/%05d", i%16, i/16%16, i) }

// fill makes the data: most files are small, a few large ones have most of the
// bytes, as in a browser's profile.
func (s *stage) fill(d dataset) {
	random := rand.New(rand.NewPCG(1, uint64(d.files)))
	weights, sum := make([]float64, d.files), 0.0
	for i := range weights {
		weights[i] = 1 / (0.01 + random.Float64()) // between 1 and 100
		sum += weights[i]
	}
	for i, w := range weights {
		path := filepath.Join(s.data(d), d.path(i))
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, noise(random, int(w/sum*float64(d.bytes))), 0o644)
		}
		if err != nil {
			s.Fatalf("cannot make data: %v", err)
		}
	}
	unix.Sync()
}

// noise is what does not compress.
func noise(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(random.Uint32())
	}
	rand.NewChaCha8(seed).Read(b)
	return b
}

// change rewrites every hundredth file, in place, beginning with another one
// each time.
func (s *stage) change(d dataset, round int) {
	random := rand.New(rand.NewPCG(2, uint64(round)))
	for i := round % 100; i < d.files; i += 100 {
		f, err := os.OpenFile(filepath.Join(s.data(d), d.path(i)), os.O_WRONLY, 0)
		if err != nil {
			s.Fatalf("cannot change data: %v", err)
		}
		st, err := f.Stat()
		if err == nil {
			_, err = f.Write(noise(random, int(st.Size())))
		}
		if err != nil {
			s.Fatalf("cannot change data: %v", err)
		}
		f.Close()
	}
}

// blocked refreshes the application to a new version, and returns for how many
// milliseconds its launch was blocked.
func (s *stage) blocked(d dataset, version int, program string, markers <-chan sighting) float64 {
	s.publish(d.name, fmt.Sprint(version), program, "data:\n  versioned: true\n")
	unix.Sync() // what is on its way to the disk is not this refresh's
	// Files that have just been made could change within one tick of the clock,
	// so they are not believed to be old until two seconds have passed.
	time.Sleep(3 * time.Second)
	app := s.open(s.wrapper(d.name))
	if r := s.Admin.RunWithin(5*time.Minute, "lull", "refresh", d.name); r.Code != exitBusy {
		s.Fatalf("the refresh does not wait: %v", r)
	}
	s.change(d, version)
	unix.Sync() // it was saved a while before the end, not in the last second
	forget(markers)
	app.close()
	marker := "lull." + d.name + ".inhibited"
	began := await(s, markers, marker, unix.IN_MOVED_TO).at
	took := await(s, markers, marker, unix.IN_DELETE).at - began
	s.Until("the refresh has ended", time.Minute, func() (bool, string) {
		o, err := s.api.TryRefresh(d.name, fmt.Sprint(version))
		return err == nil && o.Str("State") == "done", fmt.Sprint(o.Str("State"), " ", o.Str("ErrorText"), err)
	})
	return float64(took) / 1e6
}

// exitBusy is the exit status of a command that leaves a refresh waiting.
const exitBusy = 75

// copied copies the data as a script would do it, while the application must not run.
func (s *stage) copied(d dataset) float64 {
	to := s.Path("copy")
	unix.Sync()
	began := time.Now()
	out, err := exec.CommandContext(s.Context(), "cp", "-a", s.data(d), to).CombinedOutput()
	if err == nil {
		out, err = exec.CommandContext(s.Context(), "sync").CombinedOutput()
	}
	took := time.Since(began)
	if err == nil {
		err = os.RemoveAll(to)
	}
	if err != nil {
		s.Fatalf("cannot copy: %v\n%s", err, out)
	}
	return ms(took)
}
