package repo

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/policy"
)

// Client reads one repository.
type Client struct {
	cfg    Config
	places []*place // its own address, then its mirrors
	state  string   // directory of the accepted metadata
	log    *slog.Logger
	now    func() time.Time

	decoders

	// turn has one element while metadata is read: go-tuf is not safe for concurrent use.
	// Its holder alone uses the fields below.
	turn      chan struct{}
	meta      *place        // where metadata is read from
	tag       string        // of the timestamp in trusted, or ""
	timestamp digest.Digest // its content
	rootAsked time.Time     // when the next root was requested last
	suspect   bool          // verification of the last metadata failed
	last      updated       // the result of the last Update

	mu       sync.Mutex                       // guards the fields below; held over memory only
	trusted  *trustedmetadata.TrustedMetadata // of the last Update that succeeded, or nil; never changed
	pointers map[digest.Digest]Offers         // fetched or used since then, by the hash of their file; never changed
	earlier  map[digest.Digest]Offers         // the same of the Update before
	bins     map[string]*metadata.TargetsType // the last used ones; never changed
	seen     time.Time                        // the time of the newest accepted signature
}

// Open prepares to read a repository, without a request. Accepted metadata is kept in a
// directory of the repository below stateDir. A new root of trust begins with a new
// directory. Error Untrusted: the configured root is no root.
func Open(cfg Config, stateDir string) (*Client, error) {
	if err := manifest.ValidLabel(cfg.Name); err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use %.80q as the name of a repository", cfg.Name)
	}
	var places []*place
	for i, url := range append([]string{cfg.URL}, cfg.Mirrors...) {
		at := cfg
		if at.URL = url; i > 0 {
			at.Authorization = "" // a password is for one server
		}
		src, err := newSource(at, defaultBackoff)
		if err != nil {
			return nil, errkind.New(errkind.Invalid, "cannot open repository %q: cannot use the url %.200q: %w", cfg.Name, shown(url), err)
		}
		places = append(places, &place{source: src, url: url})
	}
	if err := checkRoot(cfg); err != nil {
		return nil, err
	}
	state := filepath.Join(stateDir, cfg.Name, digest.Of(cfg.Root).Short())
	if err := durable.MkdirAll(state, 0o700); err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot open repository %q: %w", cfg.Name, err)
	}
	return &Client{
		cfg: cfg, places: places, meta: places[0], state: state, now: time.Now, turn: make(chan struct{}, 1),
		log: slog.Default().With("repository", cfg.Name),
	}, nil
}

// checkRoot returns an error of kind Untrusted unless the configured root is one.
func checkRoot(cfg Config) error {
	if len(cfg.Root) == 0 {
		return errkind.New(errkind.Untrusted, "cannot trust repository %q: no root of trust is configured", cfg.Name)
	}
	err := guard(func() error {
		_, err := trustedmetadata.New(cfg.Root)
		return err
	})
	if err != nil {
		return errkind.New(errkind.Untrusted, "cannot trust repository %q: the configured root of trust is not valid: %w", cfg.Name, err)
	}
	return nil
}

// Name returns the repository's name.
func (c *Client) Name() string { return c.cfg.Name }

// Close closes idle connections.
func (c *Client) Close() {
	for _, p := range c.places {
		if w, ok := p.source.(*web); ok {
			w.client.CloseIdleConnections()
		}
	}
}

// Watch returns the directory that changes whenever a local repository does, or "" for a
// remote one.
func (c *Client) Watch() string {
	if d := c.local(); d != "" {
		return filepath.Join(d, "metadata")
	}
	return ""
}

// metadataTime bounds a whole Update, of any number of files.
const metadataTime = 5 * time.Minute

// rootEvery is the interval of requests for the next root when no other metadata is new.
const rootEvery = 24 * time.Hour

// Update reads the repository and accepts its current offers. The error is Untrusted if
// verification fails; it names the role of the metadata and the fault. It is Unavailable if
// the repository cannot be read, or is too slow. The metadata that was accepted before stays
// in use until it expires.
func (c *Client) Update(ctx context.Context) error { return c.takeTurn(ctx, false) }

// Check is Update with one conditional request if the server has no new metadata. The next
// root is requested once in 24 hours, and after metadata whose verification failed.
func (c *Client) Check(ctx context.Context) error { return c.takeTurn(ctx, true) }

// updated is a completed Update, or a Check where quick.
type updated struct {
	begun time.Time
	quick bool
	err   error
}

func (c *Client) takeTurn(ctx context.Context, quick bool) error {
	ctx, cancel := context.WithTimeout(ctx, metadataTime)
	defer cancel()
	asked := time.Now()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return c.unavailable(errkind.Text("read"), context.Cause(ctx))
	}
	defer func() { <-c.turn }()
	// One of several waiting callers reads for all.
	if l := c.last; l.begun.After(asked) && (quick || !l.quick) && !errkind.Is(l.err, errkind.Interrupted) {
		return l.err
	}
	c.last = updated{begun: time.Now(), quick: quick}
	c.last.err = c.readAnywhere(ctx, quick)
	return c.last.err
}

func (c *Client) read(ctx context.Context, quick bool) error {
	set := c.inForce()
	switch {
	case set == nil:
		return c.update(ctx, nil)
	case !quick || !c.mayBeQuick():
		return c.confirm(ctx, set)
	}
	err := c.check(ctx)
	if errkind.Is(err, errkind.Untrusted) {
		return c.update(ctx, nil) // perhaps by a root that was not requested
	}
	return err
}

// current returns accepted metadata that has not expired.
func (c *Client) current(ctx context.Context) (*trustedmetadata.TrustedMetadata, error) {
	set := c.accepted()
	if set == nil {
		if err := c.Update(ctx); err != nil {
			return nil, err
		}
		set = c.accepted()
	}
	if role, when := expired(set, c.time()); role != "" {
		return nil, c.expired(role, when)
	}
	return set, nil
}

// time returns the clock's time, but never before this program was built or the newest
// accepted signature was made. With a clock that is behind, expired metadata would count as
// fresh.
func (c *Client) time() time.Time {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range []time.Time{policy.Earliest, c.seen} {
		if t.After(now) {
			now = t
		}
	}
	return now
}

// saw records the time of a signature.
func (c *Client) saw(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.After(c.seen) {
		c.seen = at
	}
}

func (c *Client) accepted() *trustedmetadata.TrustedMetadata {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trusted
}

// Listing is a channel of a package.
type Listing struct {
	Name, Channel string
	Summary       string // of the newest version, "" if the publisher gave none
}

// Listings returns the offered channels that the configuration permits, sorted.
func (c *Client) Listings(ctx context.Context) ([]Listing, error) {
	set, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	var l []Listing
	all, err := c.allTargets(ctx, set)
	if err != nil {
		return nil, err
	}
	for _, targets := range all {
		for path, t := range targets {
			if name, channel, ok := SplitPointerPath(path); ok && c.cfg.takes(name) {
				l = append(l, Listing{name, channel, SummaryOf(t.Custom)})
			}
		}
	}
	sort.Slice(l, func(i, j int) bool {
		return l[i].Name < l[j].Name || l[i].Name == l[j].Name && l[i].Channel < l[j].Channel
	})
	return l, nil
}

// Lists reports whether the repository offers a channel of a package, by the metadata that
// was accepted last. It sends no request.
func (c *Client) Lists(name, channel string) bool {
	set := c.accepted()
	if set == nil || !c.cfg.takes(name) {
		return false
	}
	if role, _ := expired(set, c.time()); role != "" {
		return false
	}
	path := PointerPath(name, channel)
	list, err := c.find(set, path, func(by *delegator, role string) (*metadata.TargetsType, error) { return c.heldBin(by, role), nil })
	return err == nil && list != nil && list.Targets[path] != nil
}

// Accepted reports whether metadata of the repository is in use.
func (c *Client) Accepted() bool {
	set := c.accepted()
	if set == nil {
		return false
	}
	role, _ := expired(set, c.time())
	return role == ""
}

// Channel returns the newest version that a channel of a package offers; see Offers.
func (c *Client) Channel(ctx context.Context, name, channel string) (*Pointer, error) {
	list, err := c.Offers(ctx, name, channel)
	if err != nil {
		return nil, err
	}
	return &list[0].Pointer, nil
}

// Offers returns the offers of a channel, by the metadata of the last Update. Without one it
// does it first. It returns at least one offer. NotFound: the repository has no such channel.
func (c *Client) Offers(ctx context.Context, name, channel string) (Offers, error) {
	if err := manifest.ValidName(name); err != nil {
		return nil, err
	}
	if err := ValidChannel(channel); err != nil {
		return nil, err
	}
	if !c.cfg.takes(name) {
		return nil, errkind.New(errkind.NotFound, "cannot take %s from repository %q: its file names other packages", name, c.cfg.Name)
	}
	set, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	t, err := c.target(ctx, set, PointerPath(name, channel))
	if err != nil {
		return nil, err
	}
	if t == nil {
		for path := range set.Targets[metadata.TARGETS].Signed.Targets {
			if strings.HasPrefix(path, "channels/"+name+"/") {
				return nil, errkind.New(errkind.NotFound, "cannot find a channel %q of %s in repository %q", channel, name, c.cfg.Name)
			}
		}
		return nil, errkind.New(errkind.NotFound, "cannot find %s in repository %q", name, c.cfg.Name)
	}
	return c.offers(ctx, name, channel, t)
}

// Time returns the time for rollouts: that of the clock, but never before the newest accepted
// signature.
func (c *Client) Time() time.Time { return c.time() }

// offers fetches the file that a target names: its offers, or the pointer as the only one.
func (c *Client) offers(ctx context.Context, name, channel string, t *metadata.TargetFiles) (Offers, error) {
	untrusted := func(format string, args ...any) error {
		args = append([]any{channel, name, c.cfg.Name}, args...)
		return errkind.New(errkind.Untrusted, "cannot trust channel %q of %s in repository %q: "+format, args...)
	}
	var sum digest.Digest
	if h := t.Hashes["sha256"]; len(h) != digest.Size {
		return nil, untrusted("its pointer has no SHA-256")
	} else {
		copy(sum[:], h)
	}
	if t.Length < 0 || t.Length > MaxPointerSize {
		return nil, untrusted("its pointer has %d bytes", t.Length)
	}
	path, length, parse := "channels/"+name+"/"+hex.EncodeToString(sum[:])+"."+channel+".json", t.Length, parseOnly
	file, err := OffersOf(t.Custom)
	if err != nil {
		return nil, untrusted("%w", err)
	}
	if file != nil {
		sum, length, parse = file.SHA256, file.Length, ParseOffers
		path = OffersPath(name, channel, sum)
	}
	if list := c.known(sum); list != nil && list[0].Name == name && list[0].Channel == channel {
		return slices.Clone(list), nil
	}
	// go-tuf would do this too, but without a context and with a cache.
	data, err := c.get(ctx, path, length, sum)
	if _, ok := err.(tooLarge); ok {
		return nil, untrusted("its pointer is larger than it is signed for")
	}
	if err == errDiffers {
		return nil, untrusted("its pointer is not the one that was signed")
	}
	if err != nil {
		return nil, c.unavailable(errkind.Text("read %s of", PointerPath(name, channel)), err)
	}
	list, err := parse(data)
	if err != nil {
		return nil, untrusted("%w", err)
	}
	if p := &list[0]; p.Name != name || p.Channel != channel {
		return nil, untrusted("its pointer is for channel %q of %s", p.Channel, p.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rememberLocked(sum, list)
	return slices.Clone(list), nil
}

// Deltas returns the packs that the offers of a package name, as far as they were read. It
// sends no request. A local repository has none: to copy whole blobs costs less.
func (c *Client) Deltas(pkg digest.Digest) []delta.Offer {
	if c.local() != "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range []map[digest.Digest]Offers{c.pointers, c.earlier} {
		for _, list := range known {
			for _, o := range list {
				if o.Package == pkg && len(o.Deltas) > 0 {
					return slices.Clone(o.Deltas)
				}
			}
		}
	}
	return nil
}

// parseOnly reads the pointer of a channel that has one offer.
func parseOnly(data []byte) (Offers, error) {
	p, err := ParsePointer(data)
	if err != nil {
		return nil, err
	}
	return Offers{{Pointer: *p}}, nil
}

// known returns offers that were fetched since the last change of the repository, or were
// still used after it.
func (c *Client) known(sum digest.Digest) Offers {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.pointers[sum]
	if list == nil && c.earlier[sum] != nil {
		list = c.earlier[sum]
		c.rememberLocked(sum, list)
	}
	return list
}

func (c *Client) rememberLocked(sum digest.Digest, list Offers) {
	if c.pointers == nil {
		c.pointers = map[digest.Digest]Offers{}
	}
	c.pointers[sum] = list
}

// unavailable returns the error for a repository that cannot be reached or read.
func (c *Client) unavailable(what string, err error) error {
	kind := errkind.Unavailable
	if errors.Is(err, context.Canceled) {
		kind = errkind.Interrupted
	}
	if err == errMissing {
		return errkind.New(kind, "cannot %s repository %q: %w", what, c.cfg.Name, err)
	}
	p := errkind.New(kind, "cannot %s repository %q at %s: %w", what, c.cfg.Name, shown(c.cfg.URL), err)
	var cert x509.CertificateInvalidError
	if errors.As(err, &cert) && cert.Reason == x509.Expired {
		return p.WithHint("the server's certificate has expired or is not valid yet, or the clock of this machine is wrong: it says %s", c.now().UTC().Format(time.DateOnly))
	}
	return p
}
