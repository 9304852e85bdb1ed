package publish

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull/lull/agent/lib/errkind"
)

// Order sorts package sources so that each comes after those of the sources that it names,
// as a subpackage or in its system.json. Otherwise the order remains. Error Invalid: two have
// the same name, or they name each other.
func Order(srcDirs []string) ([]string, error) {
	names := map[string]string{}    // of packages → source
	wanted := map[string][]string{} // by a source: packages
	for _, dir := range srcDirs {
		path := filepath.Join(dir, SourceFile)
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, cannot(dir, err)
		}
		d, err := parseSource(path, content, "")
		if err != nil {
			return nil, errkind.New(errkind.Invalid, "%w", err)
		}
		sys, err := readSystem(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, cannot(dir, err)
		}
		if other, there := names[d.Name]; there {
			return nil, errkind.New(errkind.Invalid, "cannot publish %s and %s together: both are %s", other, dir, d.Name)
		}
		names[d.Name] = dir
		for _, r := range d.references {
			wanted[dir] = append(wanted[dir], r.name)
		}
		if sys != nil {
			for _, text := range slices.Concat(sys.Images, sys.Base, sys.Cache) {
				r, _ := parseReference(text) // publishing reports an error
				wanted[dir] = append(wanted[dir], r.name)
			}
		}
	}
	var order []string
	state := map[string]int{} // 1: its references are being placed; 2: placed
	var place func(dir string) error
	place = func(dir string) error {
		switch state[dir] {
		case 1:
			return errkind.New(errkind.Invalid, "cannot publish %s: it contains itself", dir)
		case 2:
			return nil
		}
		state[dir] = 1
		for _, name := range wanted[dir] {
			if other, there := names[name]; there {
				if err := place(other); err != nil {
					return err
				}
			}
		}
		state[dir] = 2
		order = append(order, dir)
		return nil
	}
	for _, dir := range srcDirs {
		if err := place(dir); err != nil {
			return nil, err
		}
	}
	return order, nil
}
