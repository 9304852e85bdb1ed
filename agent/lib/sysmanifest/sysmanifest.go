// Package sysmanifest is system.json, the file in a package's tree that makes the package an
// update of the system.
//
// Words: a source is the form that an image maker writes; its packages may be names, which
// publishing replaces by hashes. A manifest is the published form, with hashes alone.
//
// Everything here is a pure value or function and safe for concurrent use.
package sysmanifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// Name is the file's path in the package.
const Name = "system.json"

// MaxSize bounds its bytes: some thousand packages.
const MaxSize = 1 << 20

// Source is a version and lists of references to packages. Unknown and repeated keys are
// errors, and so is a reference that is in a list twice.
type Source struct {
	Version string   `json:"version"`          // what people call the system
	Images  []string `json:"images,omitempty"` // intermediate packages, installed by the update's pre-refresh hook
	Base    []string `json:"base,omitempty"`   // the system itself
	Cache   []string `json:"cache,omitempty"`  // to be there without the network
}

// Lists returns the lists of references, with their keys.
func (s *Source) Lists() [3]List {
	return [3]List{{"images", s.Images}, {"base", s.Base}, {"cache", s.Cache}}
}

// List is a list of references.
type List struct {
	Key        string
	References []string
}

// Encode returns the text of the file.
func (s *Source) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(s, "", "  ")
	return append(text, '\n'), err
}

// Manifest is a version and lists of package hashes.
type Manifest struct {
	Version             string
	Images, Base, Cache []digest.Digest
}

// versions fit on one line, and differ from a hash.
var versions = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]{0,62}$`) })

// ValidVersion reports whether a system can have that version.
func ValidVersion(version string) bool { return versions().MatchString(version) }

// ParseSource reads the form that image makers write. Errors are of kind Invalid.
func ParseSource(text []byte) (s Source, err error) {
	if err = s.parse(text); err == nil {
		err = s.check()
	}
	if err != nil {
		return s, errkind.New(errkind.Invalid, "cannot use %s: %w", Name, err)
	}
	return s, nil
}

// Parse reads the published form. Errors are of kind Invalid.
func Parse(text []byte) (m Manifest, err error) {
	s, err := ParseSource(text)
	if err != nil {
		return m, err
	}
	m.Version = s.Version
	for _, l := range s.Lists() {
		var list []digest.Digest
		for _, text := range l.References {
			d, err := digest.Parse(text)
			if err == nil && d.IsZero() {
				err = errors.New("it names a package of zeros")
			}
			if err != nil {
				return m, errkind.New(errkind.Invalid, "cannot use %s: %s: %w", Name, l.Key, err)
			}
			list = append(list, d)
		}
		switch l.Key {
		case "images":
			m.Images = list
		case "base":
			m.Base = list
		case "cache":
			m.Cache = list
		}
	}
	return m, nil
}

// parse reads keys one by one: encoding/json alone takes a repeated key, and one
// in capitals.
func (s *Source) parse(text []byte) error {
	if len(text) > MaxSize {
		return fmt.Errorf("it is larger than %d bytes", MaxSize)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(err, errors.New("it is no JSON object"))
	}
	fields := map[string]any{"version": &s.Version, "images": &s.Images, "base": &s.Base, "cache": &s.Cache}
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

func (s *Source) check() error {
	if !ValidVersion(s.Version) {
		return fmt.Errorf("version %.80q: want letters, digits and .+~_-", s.Version)
	}
	if len(s.Base)+len(s.Cache) == 0 {
		return errors.New("it names no package in base or cache")
	}
	for _, l := range s.Lists() {
		if len(slices.Compact(slices.Sorted(slices.Values(l.References)))) < len(l.References) {
			return fmt.Errorf("%s names a package twice", l.Key)
		}
	}
	return nil
}
