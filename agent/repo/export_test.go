package repo

import (
	"crypto/x509"
	"log/slog"
	"net/http"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Hurry shortens pauses, and the limits for a transfer that has stalled.
func (c *Client) Hurry() {
	for _, at := range c.places {
		if w, ok := at.source.(*web); ok {
			p := patience{stall: 3 * time.Second, grace: 10 * time.Second, rate: 1}
			w.retry = backoff{tries: 4, first: time.Millisecond, most: 4 * time.Millisecond, metadata: p, blobs: p}
		}
	}
}

// SetNow sets the clock.
func (c *Client) SetNow(now time.Time) { c.now = func() time.Time { return now } }

// Trusted returns the metadata in use.
func (c *Client) Trusted() *trustedmetadata.TrustedMetadata { return c.accepted() }

// Unavailable returns the error about a server that cannot be read.
func (c *Client) Unavailable(what string, err error) error { return c.unavailable(what, err) }

// State returns the directory of the accepted metadata.
func (c *Client) State() string { return c.state }

// ParseSeekTable finds the seek table at the end of a file and returns its number of frames.
func ParseSeekTable(file []byte) int {
	need, ok := seekTableSize(file)
	if !ok || need > int64(len(file)) {
		return 0
	}
	frames, err := parseSeekTable(file[int64(len(file))-need:], int64(len(file)))
	if err != nil {
		return 0
	}
	return len(frames)
}

// Impatient makes a transfer fail that is slower than rate bytes a second, after a short
// time.
func (c *Client) Impatient(rate int64) {
	if w, ok := c.places[0].source.(*web); ok {
		p := patience{stall: time.Minute, grace: 300 * time.Millisecond, rate: rate}
		w.retry.metadata, w.retry.blobs = p, p
	}
}

// SetLog sets where the client logs.
func (c *Client) SetLog(l *slog.Logger) { c.log = l }

// TrustTLS makes the client trust further certificates.
func (c *Client) TrustTLS(pool *x509.CertPool) {
	for _, p := range c.places {
		if w, ok := p.source.(*web); ok {
			w.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
		}
	}
}
