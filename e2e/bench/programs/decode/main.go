// Decode makes the files of a pack from the files of an older version, and verifies them. It
// writes nothing. It prints the memory that it has used at most, in KiB: what wait4(2) returns of a
// child is at least what its parent had at the time of fork(2).
//
// Usage: decode REPOSITORY PACK OLD, where OLD is a directory.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/repo"
)

// heap is what the runtime keeps below, with its garbage. lulld has a limit, too.
const heap = 24 << 20

func main() {
	debug.SetMemoryLimit(heap)
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(repository, name, old string) error {
	d, err := digest.Parse(name)
	if err != nil {
		return err
	}
	pack, size, err := unpacked(filepath.Join(repository, repo.BlobPath(d)))
	if err != nil {
		return err
	}
	defer pack.Close()
	p, err := delta.Open(pack, size)
	if err != nil {
		return err
	}
	paths, err := bySize(old)
	if err != nil {
		return err
	}
	open := func(f delta.File) (io.ReaderAt, error) {
		if path := find(paths[f.Size], f); path != "" {
			return os.Open(path)
		}
		return blob(repository, f) // the manifest, which is not in the tree
	}
	if err := p.Decode(context.Background(), open, func(f delta.File) (io.WriteCloser, error) {
		return &verifier{digest.New(), f.Digest}, nil
	}); err != nil {
		return err
	}
	return printMemory()
}

// printMemory prints VmHWM of proc_pid_status(5).
func printMemory() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, ok := strings.Cut(strings.TrimSpace(rest), " ")
	if !ok {
		return errors.New("/proc/self/status has no VmHWM")
	}
	fmt.Println(kib)
	return nil
}

// bySize returns the paths of the files of a directory.
func bySize(dir string) (map[int64][]string, error) {
	paths := map[int64][]string{}
	return paths, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		i, err := e.Info()
		if err == nil {
			paths[i.Size()] = append(paths[i.Size()], path)
		}
		return err
	})
}

// find returns the path with the content of a file, or "". The only file of its size is
// taken for it: that it is the right one shows in the hashes of what is made.
func find(paths []string, f delta.File) string {
	if len(paths) == 1 {
		return paths[0]
	}
	for _, path := range paths {
		r, err := os.Open(path)
		if err != nil {
			continue
		}
		d, _, err := digest.Read(r)
		r.Close()
		if err == nil && d == f.Digest {
			return path
		}
	}
	return ""
}

func blob(repository string, f delta.File) (io.ReaderAt, error) {
	r, _, err := unpacked(filepath.Join(repository, repo.BlobPath(f.Digest)))
	return r, err
}

// unpacked returns a temporary file with the content of a compressed one.
func unpacked(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	dec, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, 0, err
	}
	defer dec.Close()
	out, err := os.CreateTemp("", "decode")
	if err != nil {
		return nil, 0, err
	}
	os.Remove(out.Name())
	n, err := io.Copy(out, dec)
	return out, n, err
}

// verifier checks the content of a file.
type verifier struct {
	hash.Hash
	want digest.Digest
}

func (v *verifier) Close() error {
	if digest.From(v.Hash) != v.want {
		return fmt.Errorf("the content of %s is wrong", v.want)
	}
	return nil
}
