package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/lull/lull/agent/problem"
)

// The largest metadata that is read, in bytes by role.
const (
	maxRoot      = 512 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 1 << 20
	maxTargets   = 32 << 20
)

// updateLocked runs TUF's client workflow once. Whatever it has verified on its
// way lasts, even when it fails later: newer metadata once seen must not be
// unseen.
func (c *Client) updateLocked(ctx context.Context) error {
	cache := c.loadCache()
	f := &fetcher{ctx: ctx, c: c, got: map[string][]byte{}}
	set, err := c.refresh(f, cache.root)
	if set != nil {
		if rolled := cache.check(set, err == nil); rolled != "" {
			return c.untrusted(rolled, "it was rolled back: an older version than the one accepted before is offered", err)
		}
		if kerr := cache.keep(set, f.got); kerr != nil {
			return problem.New(problem.KindOf(kerr), "cannot remember the metadata of repository %q: %w", c.cfg.Name, kerr)
		}
	}
	if err != nil {
		return c.explain(f, set, err)
	}
	c.trusted, c.pointers = set, nil
	return nil
}

// refresh returns what could be verified, also beside an error.
func (c *Client) refresh(f *fetcher, root []byte) (set *trustedmetadata.TrustedMetadata, err error) {
	var up *updater.Updater
	// go-tuf follows pointers that metadata with a valid signature may leave
	// out. Whoever holds such a key must not be able to stop the agent.
	defer func() {
		if p := recover(); p != nil {
			err = &metadata.ErrRepository{Msg: fmt.Sprint("the metadata is not complete: ", p)}
		}
	}()
	up, err = updater.New(&config.UpdaterConfig{
		MaxRootRotations: 256, RootMaxLength: maxRoot, TimestampMaxLength: maxTimestamp,
		SnapshotMaxLength: maxSnapshot, TargetsMaxLength: maxTargets,
		Fetcher: f, LocalTrustedRoot: root, RemoteMetadataURL: "metadata",
		// It reads the folder all the same; writing is ours, because it does
		// not flush.
		LocalMetadataDir: c.state, DisableLocalCache: true,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		s := up.GetTrustedMetadataSet()
		set = &s
	}()
	up.UnsafeSetRefTime(c.now())
	return nil, up.Refresh()
}

func limitOf(role string) int64 {
	switch role {
	case metadata.ROOT:
		return maxRoot
	case metadata.TIMESTAMP:
		return maxTimestamp
	case metadata.SNAPSHOT:
		return maxSnapshot
	}
	return maxTargets
}

// fetcher hands metadata to go-tuf and remembers what it handed over.
type fetcher struct {
	ctx  context.Context
	c    *Client
	role string            // asked for last
	got  map[string][]byte // the newest by role
	err  error             // what the source failed with last
}

// roleOf takes the role from "metadata/12.snapshot.json".
func roleOf(file string) string {
	name := strings.TrimSuffix(path.Base(file), ".json")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// DownloadFile implements go-tuf's Fetcher.
func (f *fetcher) DownloadFile(file string, limit int64, _ time.Duration) ([]byte, error) {
	f.role, f.err = roleOf(file), nil
	// A length that metadata names bounds a download, but metadata must not
	// be able to raise the limit.
	data, err := f.c.src.get(f.ctx, file, min(max(limit, 0), limitOf(f.role)))
	switch {
	case err == errMissing:
		f.err = err
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: file}
	case errors.As(err, new(tooLarge)):
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: err.Error()}
	case err != nil:
		f.err = err
		return nil, err
	}
	f.got[f.role] = data
	return data, nil
}

// expired returns the role that has expired first in the order of trust, or "".
func expired(set *trustedmetadata.TrustedMetadata, now time.Time) (role string, when time.Time) {
	if set.Root.Signed.IsExpired(now) {
		return metadata.ROOT, set.Root.Signed.Expires
	}
	if t := set.Timestamp; t != nil && t.Signed.IsExpired(now) {
		return metadata.TIMESTAMP, t.Signed.Expires
	}
	if s := set.Snapshot; s != nil && s.Signed.IsExpired(now) {
		return metadata.SNAPSHOT, s.Signed.Expires
	}
	if t := set.Targets[metadata.TARGETS]; t != nil && t.Signed.IsExpired(now) {
		return metadata.TARGETS, t.Signed.Expires
	}
	return "", time.Time{}
}

// expired is the error for a role whose metadata is too old.
func (c *Client) expired(role string, when time.Time) error {
	at := "has expired"
	if !when.IsZero() {
		at = "expired on " + when.UTC().Format(time.DateOnly)
	}
	return problem.New(problem.Untrusted, "cannot trust repository %q: its %s metadata %s", c.cfg.Name, role, at).
		WithHint("the repository has not been signed anew in time, an old copy of it is being served, or the clock of this machine is wrong: it says %s", c.now().UTC().Format(time.DateOnly))
}

func (c *Client) untrusted(role, what string, cause error) error {
	p := problem.New(problem.Untrusted, "cannot trust repository %q: %s metadata: %s", c.cfg.Name, role, what)
	p.Err = cause
	return p
}

// explain turns a failure of go-tuf into one sentence.
func (c *Client) explain(f *fetcher, set *trustedmetadata.TrustedMetadata, err error) error {
	role := f.role
	if role == "" {
		role = metadata.ROOT
	}
	var syntax *json.SyntaxError
	switch {
	case f.err != nil:
		return c.unavailable("read the "+role+" metadata of", f.err)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		if set == nil {
			return c.expired(role, time.Time{})
		}
		r, when := expired(set, c.now())
		if r == "" { // not kept by go-tuf, because it has expired
			r, when = role, expiry(f.got[role])
		}
		return c.expired(r, when)
	case errors.Is(err, &metadata.ErrDownloadLengthMismatch{}):
		return c.untrusted(role, "it is too large", err)
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		return c.untrusted(role, "it is not what the repository has signed for", err)
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		return c.untrusted(role, "its signature is wrong", err)
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return c.untrusted(role, "it was rolled back or mixed up: "+err.Error(), err)
	case errors.As(err, &syntax), errors.Is(err, &metadata.ErrValue{}):
		return c.untrusted(role, "it is garbage: "+err.Error(), err)
	}
	return c.untrusted(role, err.Error(), err)
}

// expiry reads the date from metadata that was not accepted.
func expiry(data []byte) time.Time {
	var m struct {
		Signed struct {
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if json.Unmarshal(data, &m) != nil {
		return time.Time{}
	}
	return m.Signed.Expires
}
