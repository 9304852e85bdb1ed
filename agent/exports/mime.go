package exports

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// mimeCache is the file with the applications of each MIME type, for GIO and KDE. Without it
// they find none. Its format is that of update-desktop-database(1).
const mimeCache = appDir + "/mimeinfo.cache"

func isDesktopFile(name string) bool { return filepath.Dir(name) == appDir && name != mimeCache }

func (e *Exports) setMimesLocked(name string, types []string) {
	switch {
	case !isDesktopFile(name):
	case len(types) == 0:
		delete(e.mimes, filepath.Base(name))
	default:
		e.mimes[filepath.Base(name)] = types
	}
}

// writeMimes updates mimeinfo.cache, mime.cache and the list of types.
func (e *Exports) writeMimes() error {
	e.cache.Lock()
	defer e.cache.Unlock()
	if err := e.writeTypes(); err != nil {
		return err
	}
	return e.writeShared(mimeCache, e.mimeInfo())
}

// mimeInfo returns the content of mimeinfo.cache, or nil if no desktop file has a MIME type.
func (e *Exports) mimeInfo() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	byType := map[string][]string{}
	for desktop, types := range e.mimes {
		for _, t := range types {
			byType[t] = append(byType[t], desktop)
		}
	}
	if len(byType) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.WriteString("[MIME Cache]\n")
	for _, t := range slices.Sorted(maps.Keys(byType)) {
		slices.Sort(byType[t])
		b.WriteString(t + "=" + strings.Join(slices.Compact(byType[t]), ";") + ";\n")
	}
	return b.Bytes()
}
