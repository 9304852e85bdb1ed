package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// A repository may have mirrors. Metadata is read from its own address, or from a mirror if
// that is unreachable, or is behind the accepted metadata. Pointers and blobs, which are
// checked by hash, are read from mirrors first. A place that fails is tried last for a while.

// passedOver is the time for which a failed place is tried last.
const passedOver = time.Hour

// place is an address at which a repository is. The first one is its own, the others are mirrors.
type place struct {
	source
	url string
	// Guarded by Client.mu:
	failed time.Time // of the last failure; zero means none
	err    error     // the cause
}

// recent reports whether a place is passed over.
func (p *place) recent() bool { return !p.failed.IsZero() && time.Since(p.failed) < passedOver }

// Mirror is the state of a mirror.
type Mirror struct {
	URL    string    `json:"url"`              // without a password
	Failed time.Time `json:"failed,omitzero"`  // since when it is passed over; zero means that it is used
	Behind bool      `json:"behind,omitempty"` // it has older metadata than another place
	Error  string    `json:"error,omitempty"`  // why it is passed over
}

// Mirrors returns the states of the mirrors, in the order of the configuration.
func (c *Client) Mirrors() (list []Mirror) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.places[1:] {
		m := Mirror{URL: shown(p.url)}
		if p.recent() {
			m.Failed, m.Behind, m.Error = p.failed, errors.Is(p.err, errBehind), p.err.Error()
		}
		list = append(list, m)
	}
	return list
}

// local returns the directory of a repository whose own address is on this machine, or "".
func (c *Client) local() string { return c.places[0].dir() }

// order returns the places. Those that have failed lately are last. Otherwise mirrors are
// before the repository's own address for content, and after it for metadata.
func (c *Client) order(content bool) []*place {
	list := slices.Clone(c.places)
	if content && len(list) > 1 {
		list = append(list[1:], list[0])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortStableFunc(list, func(a, b *place) int {
		switch ra, rb := a.recent(), b.recent(); {
		case ra == rb:
			return 0
		case rb:
			return -1
		}
		return 1
	})
	return list
}

// passOver records the failure of a place, and its cause, if there are other places.
func (c *Client) passOver(p *place, err error) {
	if len(c.places) == 1 {
		return
	}
	c.mu.Lock()
	p.failed, p.err = time.Now(), err
	c.mu.Unlock()
	c.placesChanged()
	text := "a place of the repository is passed over"
	if errors.Is(err, errBehind) {
		text = "a place of the repository is behind, and passed over"
	}
	c.log.Warn(text, "url", shown(p.url), "error", err)
}

// errBehind means metadata that is older than the accepted metadata. It occurs with a mirror
// that lags, and with an attacker who rolls a repository back. If no place has newer
// metadata, the error is that of an attack.
var errBehind = errors.New("it is behind")

// works clears the failure of a place.
func (c *Client) works(p *place) {
	c.mu.Lock()
	failed := !p.failed.IsZero()
	p.failed, p.err = time.Time{}, nil
	c.mu.Unlock()
	if failed {
		c.placesChanged()
	}
}

func (c *Client) placesChanged() {
	if c.cfg.MirrorsChanged != nil {
		c.cfg.MirrorsChanged()
	}
}

// readAnywhere reads the metadata from the first place that has it and is not behind. The
// error is that of the repository's own address. The caller holds turn.
func (c *Client) readAnywhere(ctx context.Context, quick bool) error {
	var first error
	for _, p := range c.order(false) {
		if c.meta != p {
			c.meta, c.tag = p, "" // tags are those of a server
		}
		err := c.read(ctx, quick)
		if err == nil {
			c.works(p)
			return nil
		}
		if first == nil || p == c.places[0] {
			first = err
		}
		if ctx.Err() != nil || !errkind.Is(err, errkind.Unavailable) && !errkind.Is(err, errkind.Untrusted) {
			break
		}
		c.passOver(p, err)
	}
	return first
}

// get reads a file of known content from the first place that has it. The error is that of
// the last place, or errDiffers.
func (c *Client) get(ctx context.Context, path string, length int64, sum digest.Digest) (data []byte, err error) {
	for _, p := range c.order(true) {
		data, err = p.get(ctx, path, length)
		if err == nil && (int64(len(data)) != length || digest.Of(data) != sum) {
			err = errDiffers
		}
		if err == nil || ctx.Err() != nil {
			return data, err
		}
		if len(c.places) > 1 && err != errMissing { // a missing file may be there with its next copy
			c.passOver(p, err)
		}
	}
	return nil, err
}

// errDiffers means a file whose content differs from the signed one.
var errDiffers = errors.New("it is not what was signed")

// openAnywhere opens a file from a byte onwards at the first place that has it. If that
// fails, it continues at the next one.
func (c *Client) openAnywhere(ctx context.Context, path string, from int64) (*movingBody, error) {
	b := &movingBody{c: c, ctx: ctx, path: path, at: from, left: c.order(true)}
	return b, b.next(errMissing)
}

// movingBody is a file that is read from one place, or from several in turn.
type movingBody struct {
	c    *Client
	ctx  context.Context
	path string
	at   int64    // the next byte
	from *place   // nil before the first one
	left []*place // not tried yet
	body io.ReadCloser
}

// next opens the file at the next place. Without one it returns the error of before.
func (b *movingBody) next(before error) error {
	for len(b.left) > 0 && b.ctx.Err() == nil {
		if b.body != nil {
			b.body.Close()
			b.body = nil
		}
		b.from, b.left = b.left[0], b.left[1:]
		body, err := b.from.open(b.ctx, b.path, b.at)
		if err == nil {
			b.body = body
			return nil
		}
		if err != errMissing && b.ctx.Err() == nil {
			b.c.passOver(b.from, err)
		}
		before = err
	}
	return before
}

func (b *movingBody) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.at += int64(n)
		if err == nil || err == io.EOF || n > 0 {
			return n, errUnless(n > 0 && err != io.EOF, err)
		}
		if len(b.left) == 0 || b.ctx.Err() != nil { // a cancelled transfer is no fault of the place
			return 0, err
		}
		b.c.passOver(b.from, err)
		if err := b.next(err); err != nil {
			return 0, err
		}
	}
}

func errUnless(not bool, err error) error {
	if not {
		return nil // the error recurs
	}
	return err
}

func (b *movingBody) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

// sumOf checks the content of a whole blob if there are mirrors, so that a mirror with other
// content is passed over. The store checks each blob in any case.
type sumOf struct {
	h    hash.Hash
	want digest.Digest
}

func newSumOf(c *Client, d digest.Digest, offset int64) *sumOf {
	if len(c.places) == 1 || offset > 0 {
		return nil
	}
	return &sumOf{sha256.New(), d}
}

// wrong adds data to the sum, and at the end reports whether the content differs.
func (s *sumOf) wrong(data []byte, end bool) bool {
	if s == nil {
		return false
	}
	s.h.Write(data)
	return end && digest.Digest(s.h.Sum(nil)) != s.want
}
