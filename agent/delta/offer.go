package delta

import (
	"errors"

	"github.com/lull/lull/agent/lib/digest"
)

// MaxOffers is the most packs that one version of a package has.
const MaxOffers = 16

// maxContent bounds the content of a pack, in bytes.
const maxContent = 1 << 40

// Offer is a pack that makes a package from an older one, or from nothing. Publishers sign it.
type Offer struct {
	From     digest.Digest `json:"from"`     // the older package; zero means that none is needed
	Pack     digest.Digest `json:"pack"`     // the blob that is the pack
	Size     int64         `json:"size"`     // bytes of the pack
	Content  int64         `json:"content"`  // bytes of the blobs that it makes
	Replaces int64         `json:"replaces"` // bytes of the same blobs as the repository has them, compressed
	// Format is the version of the pack's format, which decides what decodes it, or 0 where the
	// publisher has not named it: lull did not, up to version 3.
	Format int `json:"format,omitempty"`
}

// Format is the newest version of the format of packs that Decode knows, and the one that Encode
// writes. Older ones are decoded, too.
const Format = version

// Validate returns an error if an offer makes no sense.
func (o Offer) Validate() error {
	if o.Pack.IsZero() || o.Size <= 0 || o.Content <= 0 || o.Content > maxContent || o.Size >= o.Replaces || o.Replaces > maxContent || o.Format < 0 {
		return errors.New("a delta has no valid hashes or sizes")
	}
	return nil
}
