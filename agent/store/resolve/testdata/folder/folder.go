// Package folder is a source of blobs for the programs beside it.
package folder

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/delta"
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

// Deltas implements resolve.DeltaSource: the offers for a package are in HASH.offers.
func (f Folder) Deltas(pkg digest.Digest) (offers []delta.Offer) {
	data, err := os.ReadFile(filepath.Join(string(f), pkg.String()+".offers"))
	if err != nil || json.Unmarshal(data, &offers) != nil {
		return nil
	}
	return offers
}
