package repo

import (
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
)

// Layout is the key of the targets of a repository whose blobs are in 256 directories. Its
// value is LayoutFan. A repository without it has all blobs in one directory: lull made such
// ones before it had this layout.
const (
	Layout    = "x-lull-layout"
	LayoutFan = "fan"
)

// BlobPath returns the path of a blob in a repository.
func BlobPath(d digest.Digest) string {
	s := d.String()
	return "blobs/" + s[:2] + "/" + s + ".zst"
}

// FlatPath returns the path in a repository without Layout, for a path in one with it.
func FlatPath(path string) string {
	if rest, ok := strings.CutPrefix(path, "blobs/"); ok && len(rest) > 3 && rest[2] == '/' {
		return "blobs/" + rest[3:]
	}
	return path
}

// Fans reports whether the blobs of a repository are in 256 directories.
func Fans(targets *metadata.TargetsType) bool {
	return targets.UnrecognizedFields[Layout] == LayoutFan
}

// blobPath is where a blob is, by the accepted metadata. Without any, old is another place
// where it may be.
func (c *Client) blobPath(d digest.Digest) (path, old string) {
	path = BlobPath(d)
	set := c.accepted()
	if set == nil {
		return path, FlatPath(path)
	}
	if Fans(&set.Targets[metadata.TARGETS].Signed) {
		return path, ""
	}
	return FlatPath(path), ""
}
