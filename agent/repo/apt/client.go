package apt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/policy"
)

// Client reads one source.
type Client struct {
	name   string // of the repository, for errors
	source repo.Apt
	files  *repo.Files
	keys   openpgp.EntityList
	now    func() time.Time
}

// Open prepares to read a source, without a request. Kind Invalid: the source or its keys
// cannot be used.
func Open(name string, source repo.Apt, network repo.Network) (*Client, error) {
	err := Check(source)
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot open repository %q: %w", name, err)
	}
	c := &Client{name: name, source: source, now: time.Now}
	if c.keys, err = ReadKeys(source.Keys); err != nil {
		return nil, err
	}
	c.files, err = repo.OpenFiles(source.URL, network)
	return c, err
}

// Close ends idle connections.
func (c *Client) Close() { c.files.Close() }

// time returns the clock's time, but never before this program was built.
func (c *Client) time() time.Time {
	if now := c.now(); now.After(policy.Earliest) {
		return now
	}
	return policy.Earliest
}

// release is the directory of the release, below the address.
func (c *Client) release() string {
	if strings.HasSuffix(c.source.Suite, "/") {
		return path.Clean(strings.TrimPrefix(c.source.Suite, "/"))
	}
	return path.Join("dists", c.source.Suite)
}

func (c *Client) untrusted(format string, args ...any) *errkind.Error {
	return errkind.New(errkind.Untrusted, "cannot trust repository %q: "+format, append([]any{c.name}, args...)...)
}

// Release reads and verifies the InRelease file, or, where a server has none, the files Release
// and Release.gpg. Nil without an error means that the server still has the file of the tag.
// accepted is the date of the release that was accepted last. Kind Untrusted: verification
// fails. Kind Unavailable: it cannot be read.
func (c *Client) Release(ctx context.Context, accepted time.Time, tag string) (r *Release, newTag string, err error) {
	p := path.Join(c.release(), "InRelease")
	data, newTag, changed, err := c.files.Get(ctx, p, maxRelease, tag)
	detached := errkind.Is(err, errkind.NotFound)
	if detached {
		p = path.Join(c.release(), "Release")
		data, newTag, changed, err = c.files.Get(ctx, p, maxRelease, tag)
	}
	switch {
	case errkind.Is(err, errkind.NotFound):
		return nil, "", errkind.New(errkind.Unavailable, "cannot read repository %q: it has no %s", c.name, path.Join(c.release(), "InRelease")).
			WithHint("check the url and the suite; a repository without InRelease, or Release and Release.gpg, cannot be followed")
	case err != nil:
		return nil, "", c.unavailable(err)
	case !changed:
		return nil, newTag, nil
	}
	signed := data
	if !detached {
		signed, err = verify(data, c.keys, c.time())
	} else if err = c.detached(ctx, p, data); errkind.Is(err, errkind.Unavailable) || errkind.Is(err, errkind.Interrupted) {
		return nil, "", err
	}
	if err != nil {
		return nil, "", c.untrusted("%s: %w", p, err).
			WithHint("if its makers have a new key: `lull repo remove %s`, and `lull repo add` with that key", c.name)
	}
	if r, err = parseRelease(signed); err != nil {
		return nil, "", c.untrusted("%s: %w", p, err)
	}
	if err := r.usable(c.source.Suite, accepted, c.time()); err != nil {
		return nil, "", c.untrusted("%s: %w", p, err)
	}
	return r, newTag, nil
}

// detached verifies a Release file by the signatures beside it.
func (c *Client) detached(ctx context.Context, p string, release []byte) error {
	signatures, _, _, err := c.files.Get(ctx, p+".gpg", maxRelease, "")
	if errkind.Is(err, errkind.NotFound) {
		return errors.New("it is not signed")
	}
	if err != nil {
		return c.unavailable(err)
	}
	return verifyDetached(release, signatures, c.keys, c.time())
}

func (c *Client) unavailable(err error) error {
	if errkind.Is(err, errkind.Interrupted) {
		return err
	}
	kind := errkind.Unavailable
	if errkind.Is(err, errkind.Untrusted) {
		kind = errkind.Untrusted
	}
	return errkind.New(kind, "cannot read repository %q: %w", c.name, err)
}

// Indices returns the hashes of the indices of the source in a release. Unchanged hashes mean
// unchanged packages.
func (c *Client) Indices(r *Release) (map[string]digest.Digest, error) {
	paths, err := r.indexPaths(c.source.Suite, c.source.Components, Architecture())
	if err != nil {
		return nil, errkind.New(errkind.NotFound, "cannot use repository %q: %w", c.name, err)
	}
	hashes := map[string]digest.Digest{}
	for _, p := range paths {
		hashes[p] = r.files[p].hash
	}
	return hashes, nil
}

// Packages returns the newest versions of packages in a release, by name. Missing packages
// are left out. An index is read through a file in the directory dir.
func (c *Client) Packages(ctx context.Context, r *Release, names []string, dir string) (map[string]Package, error) {
	paths, err := r.indexPaths(c.source.Suite, c.source.Components, Architecture())
	if err != nil {
		return nil, errkind.New(errkind.NotFound, "cannot use repository %q: %w", c.name, err)
	}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	found := map[string]Package{}
	for _, p := range paths {
		if err := c.index(ctx, r, p, wanted, found, dir); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// index reads one index.
func (c *Client) index(ctx context.Context, r *Release, p string, wanted map[string]bool, found map[string]Package, dir string) error {
	want := r.files[p]
	if want.size > maxIndex {
		return c.untrusted("%s has %d bytes, and %d are allowed", p, want.size, maxIndex)
	}
	f, err := os.CreateTemp(dir, "index-")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	var in io.ReadCloser
	err = errkind.New(errkind.NotFound, "it has no names by hash")
	if r.byHash {
		in, err = c.files.Open(ctx, path.Join(c.release(), path.Dir(p), "by-hash/SHA256", want.hash.String()), 0)
	}
	if errkind.Is(err, errkind.NotFound) {
		in, err = c.files.Open(ctx, path.Join(c.release(), p), 0)
	}
	if err != nil {
		return c.unavailable(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(in, want.size+1))
	in.Close()
	if err != nil {
		return c.unavailable(fmt.Errorf("cannot read %s: %w", p, err))
	}
	if n != want.size || digest.From(h) != want.hash {
		return c.untrusted("%s is not the file that InRelease names", p).
			WithHint("it may be in the middle of a publication; it is read again later")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	err = guard(func() error {
		text, err := decompress(p, f)
		if err != nil {
			return err
		}
		return newest(text, Architecture(), wanted, found)
	})
	if err != nil {
		return c.untrusted("%s: %w", p, err)
	}
	return nil
}

// Fetch downloads a package into a file, after the bytes that it has already. The file keeps
// the received bytes after a failure, unless it is another file than the package. mayWrite
// returns an error if the disk has no space for that many more bytes.
func (c *Client) Fetch(ctx context.Context, p Package, to string, mayWrite func(bytes int64) error) error {
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	have := fi.Size()
	if have > p.Size {
		have = 0
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if have < p.Size {
		if err := c.rest(ctx, p, f, have, mayWrite); err != nil {
			return err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	hash, n, err := digest.Read(f)
	if err != nil {
		return err
	}
	if n != p.Size || hash != p.SHA256 {
		err := c.untrusted("%s is not the file that its list of packages names", p.Path)
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// rest fetches the missing rest of a file.
func (c *Client) rest(ctx context.Context, p Package, f *os.File, have int64, mayWrite func(bytes int64) error) error {
	if err := mayWrite(p.Size - have); err != nil {
		return err
	}
	if _, err := f.Seek(have, io.SeekStart); err != nil {
		return err
	}
	in, err := c.files.Open(ctx, p.Path, have)
	if errkind.Is(err, errkind.NotFound) {
		return errkind.New(errkind.Unavailable, "cannot fetch %s: repository %q lists it and does not have it", p.Path, c.name)
	}
	if err != nil {
		return c.unavailable(err)
	}
	defer in.Close()
	n, err := io.Copy(f, io.LimitReader(in, p.Size-have+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return errkind.New(errkind.Interrupted, "cannot fetch %s: %w", p.Path, context.Cause(ctx))
	case err != nil:
		kind := errkind.KindOf(err)
		if kind == errkind.Failed {
			kind = errkind.Unavailable // of the transfer, not of the disk
		}
		return errkind.New(kind, "cannot fetch %s: %w", p.Path, err)
	case n < p.Size-have:
		return errkind.New(errkind.Unavailable, "cannot fetch %s: it ends after %d of %d bytes", p.Path, have+n, p.Size)
	}
	return nil
}

// Missing returns the names that are not among packages, sorted.
func Missing(names []string, packages map[string]Package) (list []string) {
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if _, ok := packages[n]; !ok {
			list = append(list, n)
		}
	}
	return list
}

// All returns the packages of the source that a list of followed packages needs, sorted.
func All(follow map[string][]string) (names []string) {
	for _, list := range follow {
		names = append(names, list...)
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}
