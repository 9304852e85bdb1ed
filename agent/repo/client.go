package repo

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/durable"
	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
)

// Client reads one repository.
type Client struct {
	cfg   Config
	src   source
	state string // folder of the accepted metadata
	log   *slog.Logger
	now   func() time.Time

	decoders

	mu       sync.Mutex
	trusted  *trustedmetadata.TrustedMetadata // of the last Update that succeeded, or nil
	pointers map[digest.Digest]*Pointer       // fetched since then
}

// Open prepares to read a repository, without looking at it yet. Accepted
// metadata is kept in a folder of the repository's own below stateDir; a new
// root of trust begins with a new one. Error Untrusted: the configured root is
// no root.
func Open(cfg Config, stateDir string) (*Client, error) {
	if err := meta.ValidName(cfg.Name); err != nil {
		return nil, problem.New(problem.Invalid, "cannot use %.80q as the name of a repository", cfg.Name)
	}
	src, err := newSource(cfg.URL, defaultBackoff)
	if err != nil {
		return nil, problem.New(problem.Invalid, "cannot open repository %q: cannot use the url %.200q: %w", cfg.Name, shown(cfg.URL), err)
	}
	if len(cfg.Root) == 0 {
		return nil, problem.New(problem.Untrusted, "cannot trust repository %q: no root of trust is configured", cfg.Name)
	}
	if _, err := trustedmetadata.New(cfg.Root); err != nil {
		return nil, problem.New(problem.Untrusted, "cannot trust repository %q: the configured root of trust is not valid: %w", cfg.Name, err)
	}
	state := filepath.Join(stateDir, cfg.Name, digest.Of(cfg.Root).Short())
	if err := durable.MkdirAll(state, 0o700); err != nil {
		return nil, problem.New(problem.KindOf(err), "cannot open repository %q: %w", cfg.Name, err)
	}
	return &Client{
		cfg: cfg, src: src, state: state, now: time.Now,
		log: slog.Default().With("repository", cfg.Name),
	}, nil
}

// Name is the repository's name.
func (c *Client) Name() string { return c.cfg.Name }

// Close lets go of idle connections.
func (c *Client) Close() {
	if w, ok := c.src.(*web); ok {
		w.client.CloseIdleConnections()
	}
}

// Watch returns the folder in which something changes whenever a local
// repository does; "" for one that is far away.
func (c *Client) Watch() string {
	if d := c.src.dir(); d != "" {
		return filepath.Join(d, "metadata")
	}
	return ""
}

// Update looks at the repository and accepts what it offers now. The error is
// Untrusted when it cannot be believed, naming the role of the metadata and what
// is wrong with it, and Unavailable when it cannot be read. What was accepted
// before stays in use as long as it has not expired.
func (c *Client) Update(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.updateLocked(ctx)
}

// currentLocked returns metadata that is accepted and has not expired.
func (c *Client) currentLocked(ctx context.Context) (*trustedmetadata.TrustedMetadata, error) {
	if c.trusted == nil {
		if err := c.updateLocked(ctx); err != nil {
			return nil, err
		}
	}
	if role, when := expired(c.trusted, c.now()); role != "" {
		return nil, c.expired(role, when)
	}
	return c.trusted, nil
}

// Listing is a channel of a package.
type Listing struct{ Name, Channel string }

// Listings returns what the repository offers, sorted.
func (c *Client) Listings(ctx context.Context) ([]Listing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set, err := c.currentLocked(ctx)
	if err != nil {
		return nil, err
	}
	var l []Listing
	for path := range set.Targets[metadata.TARGETS].Signed.Targets {
		parts := strings.Split(path, "/")
		if len(parts) != 3 || parts[0] != "channels" {
			continue
		}
		channel, ok := strings.CutSuffix(parts[2], ".json")
		if ok && meta.ValidName(parts[1]) == nil && ValidChannel(channel) == nil {
			l = append(l, Listing{parts[1], channel})
		}
	}
	sort.Slice(l, func(i, j int) bool {
		return l[i].Name < l[j].Name || l[i].Name == l[j].Name && l[i].Channel < l[j].Channel
	})
	return l, nil
}

// Channel returns what a channel of a package offers, by the metadata of the
// last Update; without one it does it first. NotFound: the repository has no such
// channel.
func (c *Client) Channel(ctx context.Context, name, channel string) (*Pointer, error) {
	if err := meta.ValidName(name); err != nil {
		return nil, err
	}
	if err := ValidChannel(channel); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set, err := c.currentLocked(ctx)
	if err != nil {
		return nil, err
	}
	targets := set.Targets[metadata.TARGETS].Signed.Targets
	t := targets[PointerPath(name, channel)]
	if t == nil {
		for path := range targets {
			if strings.HasPrefix(path, "channels/"+name+"/") {
				return nil, problem.New(problem.NotFound, "cannot find a channel %q of %s in repository %q", channel, name, c.cfg.Name)
			}
		}
		return nil, problem.New(problem.NotFound, "cannot find %s in repository %q", name, c.cfg.Name)
	}
	return c.pointerLocked(ctx, name, channel, t)
}

func (c *Client) pointerLocked(ctx context.Context, name, channel string, t *metadata.TargetFiles) (*Pointer, error) {
	untrusted := func(format string, args ...any) error {
		args = append([]any{channel, name, c.cfg.Name}, args...)
		return problem.New(problem.Untrusted, "cannot trust channel %q of %s in repository %q: "+format, args...)
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
	if p := c.pointers[sum]; p != nil && p.Name == name && p.Channel == channel {
		return clone(p), nil
	}
	// go-tuf would do this too, but without a context and with a cache.
	path := "channels/" + name + "/" + hex.EncodeToString(sum[:]) + "." + channel + ".json"
	data, err := c.src.get(ctx, path, t.Length)
	if _, ok := err.(tooLarge); ok {
		return nil, untrusted("its pointer is larger than it is signed for")
	}
	if err != nil {
		return nil, c.unavailable("read "+PointerPath(name, channel)+" of", err)
	}
	if err := t.VerifyLengthHashes(data); err != nil {
		return nil, untrusted("its pointer is not the one that was signed: %w", err)
	}
	p, err := ParsePointer(data)
	if err != nil {
		return nil, untrusted("%w", err)
	}
	if p.Name != name || p.Channel != channel {
		return nil, untrusted("its pointer is for channel %q of %s", p.Channel, p.Name)
	}
	if c.pointers == nil {
		c.pointers = map[digest.Digest]*Pointer{}
	}
	c.pointers[sum] = p
	return clone(p), nil
}

func clone(p *Pointer) *Pointer { q := *p; return &q }

// unavailable is a failure to reach or read the repository.
func (c *Client) unavailable(what string, err error) error {
	kind := problem.Unavailable
	if errors.Is(err, context.Canceled) {
		kind = problem.Interrupted
	}
	if err == errMissing {
		return problem.New(kind, "cannot %s repository %q: %w", what, c.cfg.Name, err)
	}
	p := problem.New(kind, "cannot %s repository %q at %s: %w", what, c.cfg.Name, shown(c.cfg.URL), err)
	var cert x509.CertificateInvalidError
	if errors.As(err, &cert) && cert.Reason == x509.Expired {
		return p.WithHint("the server's certificate has expired or is not valid yet, or the clock of this machine is wrong: it says %s", c.now().UTC().Format(time.DateOnly))
	}
	return p
}
