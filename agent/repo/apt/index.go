package apt

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/xi2/xz"
	"pault.ag/go/debian/version"

	"github.com/lull/lull/agent/lib/digest"
)

// The bounds of an index.
const (
	maxIndex      = 256 << 20 // bytes, compressed
	maxIndexPlain = 1 << 30   // bytes, decompressed
	maxDictionary = 64 << 20  // bytes of memory for an xz file
	// MaxPackage bounds a package, in bytes.
	MaxPackage = 8 << 30
)

// Package is a .deb file of a source.
type Package struct {
	Name    string
	Version string
	Path    string // below the address of the source
	Size    int64  // bytes
	SHA256  digest.Digest
}

// File is the name of the file, without directories.
func (p Package) File() string { return path.Base(p.Path) }

// compressions are the forms of an index, in the order of the cost to read them.
var compressions = []string{".gz", ".xz", ""}

// indexPaths are the paths of the indices for an architecture, below the directory of
// the release.
func (r *Release) indexPaths(suite string, components []string, arch string) (paths []string, err error) {
	find := func(dir string, must bool) {
		for _, ext := range compressions {
			if p := path.Join(dir, "Packages"+ext); r.files[p] != (file{}) {
				paths = append(paths, p)
				return
			}
		}
		if must && err == nil {
			err = fmt.Errorf("it has no list of packages %s", path.Join(dir, "Packages"))
		}
	}
	if strings.HasSuffix(suite, "/") {
		find(".", true)
		return paths, err
	}
	for _, c := range components {
		find(path.Join(c, "binary-"+arch), true)
		if r.all {
			find(path.Join(c, "binary-all"), false)
		}
	}
	return paths, err
}

// decompress returns the text of an index. The ending of its path gives the form.
func decompress(p string, r io.Reader) (io.Reader, error) {
	switch path.Ext(p) {
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.NewReader(r, maxDictionary)
	}
	return r, nil
}

// newest adds the newest versions of the wanted packages in an index to found.
func newest(index io.Reader, arch string, wanted map[string]bool, found map[string]Package) error {
	limited := &io.LimitedReader{R: index, N: maxIndexPlain}
	f := newFields(limited, "Package", "Version", "Architecture", "Filename", "Size", "SHA256")
	for {
		v, err := f.next()
		if limited.N == 0 {
			return fmt.Errorf("it has more than %d bytes", maxIndexPlain)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if a := v["architecture"]; !wanted[v["package"]] || a != arch && a != "all" {
			continue
		}
		p, err := packageOf(v)
		if err != nil {
			return fmt.Errorf("the package %s: %w", p.Name, err)
		}
		if old, ok := found[p.Name]; !ok || Newer(p.Version, old.Version) {
			found[p.Name] = p
		}
	}
}

// packageOf checks the fields of a wanted package.
func packageOf(v map[string]string) (p Package, err error) {
	p = Package{Name: v["package"], Version: v["version"], Path: strings.TrimPrefix(v["filename"], "./")}
	if p.SHA256, err = digest.Parse(strings.ToLower(v["sha256"])); err != nil {
		return p, errors.New("it has no SHA-256")
	}
	if p.Size, err = strconv.ParseInt(v["size"], 10, 64); err != nil || p.Size <= 0 || p.Size > MaxPackage {
		return p, fmt.Errorf("its size %.40q is not between 1 and %d bytes", v["size"], int64(MaxPackage))
	}
	if _, err := version.Parse(p.Version); err != nil {
		return p, fmt.Errorf("%.80q is no version", p.Version)
	}
	if p.Path == "" || len(p.Path) > 1024 || path.Clean(p.Path) != p.Path || strings.HasPrefix(p.Path, "/") || p.Path == ".." || strings.HasPrefix(p.Path, "../") ||
		strings.ContainsFunc(p.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return p, fmt.Errorf("its path %.200q is not usable", p.Path)
	}
	return p, nil
}

// Newer reports whether a version of Debian is newer than another (deb-version(7)).
func Newer(v, than string) bool {
	a, err := version.Parse(v)
	b, err2 := version.Parse(than)
	return err == nil && err2 == nil && version.Compare(a, b) > 0
}
