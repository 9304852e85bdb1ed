package sysupdate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// ManifestName is the file in an update's tree that makes it one.
const ManifestName = "system.json"

// maxManifest bounds its bytes: some thousand packages.
const maxManifest = 1 << 20

// Manifest is system.json: a version and lists of package hashes. Unknown and
// repeated keys are errors, and so is a package that is in a list twice.
type Manifest struct {
	Version string          // what people call the system
	Images  []digest.Digest // intermediate packages, installed by the update's pre-refresh hook
	Base    []digest.Digest // the system itself
	Cache   []digest.Digest // to be there without the network
}

// versions fit on one line, and differ from a hash.
var versions = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]{0,62}$`)

// ParseManifest reads system.json. Errors are of kind Invalid.
func ParseManifest(text []byte) (m Manifest, err error) {
	if err = m.parse(text); err == nil {
		err = m.check()
	}
	if err != nil {
		return m, errkind.New(errkind.Invalid, "cannot use %s: %w", ManifestName, err)
	}
	return m, nil
}

// parse reads keys one by one: encoding/json alone takes a repeated key, and one
// in capitals.
func (m *Manifest) parse(text []byte) error {
	if len(text) > maxManifest {
		return fmt.Errorf("it is larger than %d bytes", maxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(err, errors.New("it is no JSON object"))
	}
	fields := map[string]any{"version": &m.Version, "images": &m.Images, "base": &m.Base, "cache": &m.Cache}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		into, ok := fields[key]
		switch {
		case into != nil:
			if err := dec.Decode(into); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			fields[key] = nil
		case ok:
			return fmt.Errorf("the key %q is there twice", key)
		default:
			return fmt.Errorf("the key %.40q is not known: want version, images, base, cache", key)
		}
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind its end")
	}
	return nil
}

func (m *Manifest) check() error {
	if !versions.MatchString(m.Version) {
		return fmt.Errorf("version %.80q: want letters, digits and .+~_-", m.Version)
	}
	if len(m.Base)+len(m.Cache) == 0 {
		return errors.New("it names no package in base or cache")
	}
	for name, list := range map[string][]digest.Digest{"images": m.Images, "base": m.Base, "cache": m.Cache} {
		if len(sorted(list)) < len(list) {
			return fmt.Errorf("%s names a package twice", name)
		}
		if slices.ContainsFunc(list, digest.Digest.IsZero) {
			return fmt.Errorf("%s names a package of zeros", name)
		}
	}
	return nil
}

// manifest reads that of a resident update.
func (s *System) manifest(update digest.Digest) (m Manifest, err error) {
	path := filepath.Join(s.Store.PackageDir(update), ManifestName)
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return m, errkind.New(errkind.Invalid, "cannot use package %s as a system update: it has no %s", update.Short(), ManifestName)
	case err != nil:
		return m, err
	case !fi.Mode().IsRegular() || fi.Size() > maxManifest:
		return m, errkind.New(errkind.Invalid, "cannot use package %s as a system update: its %s is no file of at most %d bytes", update.Short(), ManifestName, maxManifest)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	return ParseManifest(text)
}
