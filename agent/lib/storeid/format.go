package storeid

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// FormatFile is the file in the root that has the number of its format, in decimal, and a
// newline. A root without the file has format 1.
const FormatFile = "format"

// Format is the newest format that this lull reads and the one that it writes. It covers
// the files below the root: records, links, trees and their names. A change that an
// older lull of the same major version would misread needs a new major version and a new
// number; anything else adds files, records and fields that an older lull ignores.
const Format = 1

// CheckFormat returns an error if the root was last used by a lull of a newer format. It
// changes nothing, and is called before anything below the root is opened or created.
func CheckFormat(root string) error {
	path := filepath.Join(root, FormatFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot read the format of the store: %w", err)
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 32)
	switch {
	case err != nil || n == 0:
		return errkind.New(errkind.Invalid, "cannot use %s: its file %s has no number of a format", root, FormatFile).
			WithHint("write %d into %s if this lull, or an older one, was the last to use it", Format, path)
	case n > Format:
		return errkind.New(errkind.Invalid, "cannot use %s: a newer lull has changed it to format %d, and this one reads formats up to %d", root, n, Format).
			WithHint("reinstall the newer lull, or restore a backup from before it; nothing was changed")
	}
	return nil
}

// RecordFormat creates the file in a root that lacks it.
func RecordFormat(root string) error {
	path := filepath.Join(root, FormatFile)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.WriteFile(path, fmt.Appendln(nil, Format), 0o644); err != nil {
		return fmt.Errorf("cannot record the format of the store: %w", err)
	}
	return nil
}
