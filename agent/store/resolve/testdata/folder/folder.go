// Package folder is a source of blobs for the programs beside it.
package folder

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/digest"
)

// Folder is the path of a folder with files that are called by their hashes.
type Folder string

// Blob implements resolve.Source.
func (f Folder) Blob(_ context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	file, err := os.Open(filepath.Join(string(f), d.String()))
	if err == nil {
		_, err = file.Seek(offset, io.SeekStart)
	}
	return file, err
}
