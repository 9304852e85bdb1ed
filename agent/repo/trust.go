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

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// The limits of metadata, in bytes by role.
const (
	maxRoot      = 512 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 1 << 20
	maxTargets   = 32 << 20
)

// mayBeQuick reports whether one conditional request for the timestamp is enough.
func (c *Client) mayBeQuick() bool {
	now := c.time()
	return c.meta.dir() == "" && !c.rootAsked.After(now) && now.Sub(c.rootAsked) < rootEvery
}

// inForce returns the metadata that was accepted last. It is nil if there is none, it has
// expired, or verification of later metadata failed.
func (c *Client) inForce() *trustedmetadata.TrustedMetadata {
	set := c.accepted()
	if set == nil || c.suspect {
		return nil
	}
	if role, _ := expired(set, c.time()); role != "" {
		return nil
	}
	return set
}

// confirm requests the next root and the timestamp. If there is no such root, and the
// timestamp is unchanged, set stays in use, and no metadata is parsed, independent of the
// size of the repository.
func (c *Client) confirm(ctx context.Context, set *trustedmetadata.TrustedMetadata) error {
	f := &fetcher{ctx: ctx, c: c, role: metadata.ROOT}
	_, err := f.download(fmt.Sprintf("metadata/%d.root.json", set.Root.Signed.Version+1), maxRoot)
	switch {
	case err == nil, errors.As(err, new(tooLarge)):
		return c.update(ctx, nil)
	case err != errMissing:
		return c.unavailable(errkind.Text("read the %s metadata of", "root"), err)
	}
	if err := c.check(ctx); err != nil {
		return err
	}
	c.rootAsked = c.time()
	return nil
}

// check requests the timestamp alone, and continues from there if it is new.
func (c *Client) check(ctx context.Context) error {
	data, tag, err := c.meta.getIfChanged(ctx, "metadata/timestamp.json", maxTimestamp, c.tag)
	switch {
	case err == errUnchanged:
		return nil
	case errors.As(err, new(tooLarge)):
		return c.untrusted(metadata.TIMESTAMP, "it is too large", err)
	case err != nil:
		return c.unavailable(errkind.Text("read the %s metadata of", "timestamp"), err)
	case digest.Of(data) == c.timestamp: // from a directory, or a server without ETag
		c.tag = tag
		return nil
	}
	return c.update(ctx, &fetched{data, tag})
}

// fetched is a timestamp that was already requested.
type fetched struct {
	timestamp []byte
	tag       string
}

// update runs TUF's client workflow once. With a fetched timestamp it requests no root. The
// metadata that it has verified is kept, even if it fails later: verified newer metadata must
// not be forgotten.
func (c *Client) update(ctx context.Context, have *fetched) error {
	cache := c.loadCache()
	f := &fetcher{ctx: ctx, c: c, have: have, got: map[string][]byte{}}
	set, err := c.refresh(f, cache.root)
	if set != nil {
		if rolled := cache.check(set, err == nil); rolled != "" {
			c.suspect = true
			return c.untrusted(rolled, "it was rolled back: an older version than the one accepted before is offered", errors.Join(errBehind, err))
		}
		if kerr := cache.keep(set, f.got); kerr != nil {
			return errkind.New(errkind.KindOf(kerr), "cannot remember the metadata of repository %q: %w", c.cfg.Name, kerr)
		}
	}
	if err != nil {
		err = c.explain(f, set, err)
		c.suspect = errkind.Is(err, errkind.Untrusted)
		return err
	}
	trim(set)
	c.suspect, c.tag, c.timestamp = false, f.tag, digest.Of(f.got[metadata.TIMESTAMP])
	if have == nil {
		c.rootAsked = c.time()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trusted == nil || versions(c.trusted)[metadata.TARGETS] != versions(set)[metadata.TARGETS] {
		c.bins = nil // another key may sign them
	}
	c.trusted, c.pointers, c.earlier = set, nil, c.pointers
	return nil
}

// trim drops the empty maps of unknown fields that go-tuf makes for each entry. They are most
// of the memory of a long list.
func trim(set *trustedmetadata.TrustedMetadata) {
	for _, f := range set.Snapshot.Signed.Meta {
		if f != nil && len(f.UnrecognizedFields) == 0 {
			f.UnrecognizedFields = nil
		}
	}
	trimTargets(&set.Targets[metadata.TARGETS].Signed)
}

func trimTargets(targets *metadata.TargetsType) {
	for _, f := range targets.Targets {
		if f != nil && len(f.UnrecognizedFields) == 0 {
			f.UnrecognizedFields = nil
		}
	}
}

// refresh returns the verified part, also beside an error.
func (c *Client) refresh(f *fetcher, root []byte) (set *trustedmetadata.TrustedMetadata, err error) {
	var up *updater.Updater
	// go-tuf dereferences pointers that metadata with a valid signature may leave out. A
	// holder of such a key must not be able to stop the agent.
	defer func() {
		if p := recover(); p != nil {
			err = &metadata.ErrRepository{Msg: fmt.Sprint("the metadata is not complete: ", p)}
		}
	}()
	up, err = updater.New(&config.UpdaterConfig{
		MaxRootRotations: 256, RootMaxLength: maxRoot, TimestampMaxLength: maxTimestamp,
		SnapshotMaxLength: maxSnapshot, TargetsMaxLength: maxTargets,
		Fetcher: f, LocalTrustedRoot: root, RemoteMetadataURL: "metadata",
		// It reads the directory all the same. This package writes it, because go-tuf
		// does not flush.
		LocalMetadataDir: c.state, DisableLocalCache: true,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		s := up.GetTrustedMetadataSet()
		set = &s
	}()
	up.UnsafeSetRefTime(c.time())
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

// fetcher gives metadata to go-tuf and records it.
type fetcher struct {
	ctx  context.Context
	c    *Client
	have *fetched          // nil means that nothing was fetched before
	tag  string            // of the timestamp
	role string            // requested last
	got  map[string][]byte // the newest by role
	err  error             // the last error of the source
}

// roleOf returns the role of "metadata/12.snapshot.json".
func roleOf(file string) string {
	name := strings.TrimSuffix(path.Base(file), ".json")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// DownloadFile implements go-tuf's Fetcher.
func (f *fetcher) DownloadFile(file string, limit int64, _ time.Duration) ([]byte, error) {
	f.role, f.err = roleOf(file), nil
	var data []byte
	var err error
	switch {
	case f.have != nil && f.role == metadata.ROOT:
		err = errMissing // not requested this time
	case f.have != nil && f.role == metadata.TIMESTAMP:
		data, f.tag = f.have.timestamp, f.have.tag
	default:
		data, err = f.download(file, limit)
	}
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

// download reads metadata from the repository.
func (f *fetcher) download(file string, limit int64) ([]byte, error) {
	// A length that metadata names bounds a download, but metadata must not be able to
	// raise the limit.
	data, tag, err := f.c.meta.getIfChanged(f.ctx, file, min(max(limit, 0), limitOf(f.role)), "")
	if f.role == metadata.TIMESTAMP {
		f.tag = tag
	}
	var s status
	if f.role == metadata.ROOT && errors.As(err, &s) && s.code == http.StatusForbidden {
		return nil, errMissing // the answer of object stores whose files may not be listed
	}
	return data, err
}

// expired returns the first expired role in the order of trust, or "".
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

// expired returns the error for a role whose metadata is too old.
func (c *Client) expired(role string, when time.Time) error {
	at := "has expired"
	if !when.IsZero() {
		at = "expired on " + when.UTC().Format(time.DateOnly)
	}
	return errkind.New(errkind.Untrusted, "cannot trust repository %q: its %s metadata %s", c.cfg.Name, role, at).
		WithHint("the repository has not been signed anew in time, an old copy of it is being served, or the clock of this machine is wrong: it says %s", c.now().UTC().Format(time.DateOnly))
}

func (c *Client) untrusted(role, what string, cause error) error {
	p := errkind.New(errkind.Untrusted, "cannot trust repository %q: %s metadata: %s", c.cfg.Name, role, what)
	p.Err = cause
	return p
}

// explain describes a failure of go-tuf in one sentence.
func (c *Client) explain(f *fetcher, set *trustedmetadata.TrustedMetadata, err error) error {
	role := f.role
	if role == "" {
		role = metadata.ROOT
	}
	var syntax *json.SyntaxError
	switch {
	case f.err != nil:
		return c.unavailable(errkind.Text("read the %s metadata of", role), f.err)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		if set == nil {
			return c.expired(role, time.Time{})
		}
		r, when := expired(set, c.time())
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
		return c.untrusted(role, "it was rolled back or mixed up: "+err.Error(), errors.Join(errBehind, err))
	case errors.As(err, &syntax), errors.Is(err, &metadata.ErrValue{}):
		return c.untrusted(role, "it is garbage: "+err.Error(), err)
	}
	return c.untrusted(role, err.Error(), err)
}

// expiry returns the date of metadata that was not accepted.
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

// Fingerprints returns the identifiers of the keys that sign a root of trust: the SHA-256 of
// each key (TUF specification, 4.2), as 64 hexadecimal digits, sorted. They remain the same
// for as long as these keys are in use. Error Untrusted: it is no root.
func Fingerprints(root []byte) (keys []string, err error) {
	err = guard(func() error {
		set, err := trustedmetadata.New(root)
		if err == nil {
			keys = keysOf(set, metadata.ROOT)
		}
		return err
	})
	if err != nil {
		return nil, errkind.New(errkind.Untrusted, "cannot use the root of trust: %w", err)
	}
	return keys, nil
}
