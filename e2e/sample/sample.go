// Package sample is a small application in two versions, as its author would
// hand it to `lull publish`: a program that runs until it is closed and saves
// what it does, a service, a desktop file and an icon. Stories use it where
// nothing larger is needed.
package sample

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// The name of the package, and of the application that is started.
const (
	Name = "org.lull.notes"
	App  = "notes"
)

// The first version, and the second, which has news. Any later version is like
// the second.
const (
	V1 = "1.0"
	V2 = "2.0"
)

//go:embed v1.yaml v2.yaml share
var files embed.FS

// Write makes a directory with one version of the application, ready to be
// published. LULL_SAMPLE may name a directory with programs that were built
// before (notes-1.0, notes-sync-1.0, …), for machines without a compiler.
func Write(tb rig.TB, dir, version string) {
	tb.Helper()
	Files(tb, dir, version)
	Programs(tb, filepath.Join(dir, "bin"), version, "")
}

// Files is Write without the programs.
func Files(tb rig.TB, dir, version string) {
	tb.Helper()
	if err := write(dir, version); err != nil {
		tb.Fatalf("cannot write the sample application: %v", err)
	}
}

// Ballast adds a file that does not compress, so that a package takes a moment
// to fetch.
func Ballast(tb rig.TB, dir string, bytes int) {
	tb.Helper()
	data := make([]byte, bytes)
	rand.NewChaCha8([32]byte{}).Read(data)
	if err := put(filepath.Join(dir, "share/notes/pictures.bin"), data); err != nil {
		tb.Fatalf("cannot write the sample application: %v", err)
	}
}

// Programs builds the programs of one version into a directory; suffix is added
// to their names.
func Programs(tb rig.TB, dir, version, suffix string) {
	tb.Helper()
	for _, name := range []string{"notes", "notes-sync"} {
		to := filepath.Join(dir, name+suffix)
		if from := os.Getenv("LULL_SAMPLE"); from != "" && suffix == "" {
			b, err := os.ReadFile(filepath.Join(from, name+"-"+version))
			if err == nil {
				err = os.MkdirAll(dir, 0o755)
			}
			if err == nil {
				err = os.WriteFile(to, b, 0o755)
			}
			if err != nil {
				tb.Fatalf("cannot use LULL_SAMPLE: %v", err)
			}
			continue
		}
		rig.GoBuild(tb, "./e2e/sample/"+name, to, map[string]string{"version": version})
	}
}

func write(dir, version string) error {
	yaml := "v2.yaml"
	if version == V1 {
		yaml = "v1.yaml"
	}
	b, err := files.ReadFile(yaml)
	if err != nil {
		return err
	}
	b = bytes.Replace(b, []byte(`"`+V2+`"`), []byte(`"`+version+`"`), 1)
	if err := put(filepath.Join(dir, "lull.yaml"), b); err != nil {
		return err
	}
	news := fmt.Sprintf("This is version %s.\n", version)
	if err := put(filepath.Join(dir, "share/doc/notes/news.txt"), []byte(news)); err != nil {
		return err
	}
	return fs.WalkDir(files, "share", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return put(filepath.Join(dir, path), b)
	})
}

// put writes a file that looks as old as all others, so that what is
// published depends on the content only.
func put(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return err
	}
	return os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0))
}
