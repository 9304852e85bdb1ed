package resolve

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store"
)

// group is the forms of one content that are wanted: plain, executable or
// both. It is fetched once.
type group struct {
	digest digest.Digest
	wants  []store.Want
	flight *flight // ours
}

// get sees to it that what is missing is resident or in our ingest.
func (j *job) get(missing []store.Want) error {
	for {
		j.lacks(len(missing))
		if len(missing) == 0 {
			return nil
		}
		mine, theirs := j.claim(missing)
		if err := j.fetchAll(mine); err != nil {
			return err
		}
		if len(theirs) == 0 {
			return nil
		}
		// A waiter holds nothing that another may wait for.
		if err := j.publish(); err != nil {
			return err
		}
		for _, f := range theirs {
			select {
			case <-f.landed:
			case <-j.ctx.Done():
				return j.ctx.Err()
			}
		}
		var err error
		if missing, err = j.missing(missing); err != nil {
			return err
		}
	}
}

// claim divides wants into those that we fetch now and those that others are
// fetching.
func (j *job) claim(wants []store.Want) (mine []*group, theirs []*flight) {
	byDigest := map[digest.Digest]*group{}
	var order []*group
	for _, w := range wants {
		g := byDigest[w.Key.Digest]
		if g == nil {
			g = &group{digest: w.Key.Digest}
			byDigest[w.Key.Digest] = g
			order = append(order, g)
		}
		g.wants = append(g.wants, w)
	}
	own := map[*flight]*group{}
	for _, g := range j.claims {
		own[g.flight] = g
	}
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	for _, g := range order {
		f := j.r.flights[g.digest]
		switch {
		case f == nil:
			g.flight = &flight{landed: make(chan struct{})}
			j.r.flights[g.digest] = g.flight
			j.claims = append(j.claims, g)
			mine = append(mine, g)
		case own[f] != nil:
			// A form that we did not want before.
			mine = append(mine, g)
		default:
			theirs = append(theirs, f)
		}
	}
	return mine, theirs
}

// publish makes the fetched blobs resident, and releases the claims.
func (j *job) publish() error {
	if err := j.ingest.Commit(); err != nil {
		return err
	}
	j.release()
	return nil
}

// release releases the claims, fulfilled or not.
func (j *job) release() {
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	for _, g := range j.claims {
		delete(j.r.flights, g.digest)
		close(g.flight.landed)
	}
	j.claims = nil
}

func (j *job) fetchAll(groups []*group) error {
	g, ctx := errgroup.WithContext(j.ctx)
	parallel := j.r.Parallel
	if parallel <= 0 {
		parallel = 8
	}
	g.SetLimit(parallel)
	for _, group := range groups {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			for _, w := range group.wants {
				// Another may have made it resident after we asked, and before we
				// claimed it.
				if !j.r.store.Has(w.Key) {
					if err := j.fetchOne(ctx, w); err != nil {
						return err
					}
				}
				j.got()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return j.ctx.Err()
}

// fetchOne gets one blob: from its other form, or else from the source. A
// stream that breaks off is resumed as long as each attempt makes progress;
// wrong content after an old beginning is re-fetched once from the start.
func (j *job) fetchOne(ctx context.Context, w store.Want) error {
	if local := j.otherForm(w.Key); local != "" && j.copyOne(ctx, w, local) == nil {
		return nil
	}
	for again := false; ; {
		before := j.ingest.Partial(w.Key)
		err := j.stream(ctx, w, func(offset int64) (io.ReadCloser, error) {
			return j.src.Blob(ctx, w.Key.Digest, offset)
		})
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return err
		case errkind.Is(err, errkind.NoSpace):
			return err
		case errkind.Is(err, errkind.Untrusted):
			// Only what came as a whole from the source is the source's fault: an old
			// beginning is thrown away, once.
			if ferr := j.ingest.Forget(w.Key); ferr != nil || before == 0 || again {
				return errors.Join(err, ferr)
			}
			again = true
		case j.ingest.Partial(w.Key) > before:
		default:
			return err
		}
	}
}

// otherForm is a file with the same content in the other mode, if there is one:
// what we have just fetched, or what is resident.
func (j *job) otherForm(k store.Key) string {
	k.Exec = !k.Exec
	switch {
	case j.ingest.Has(k):
		return j.ingest.Path(k)
	case j.r.store.Has(k):
		return j.r.store.BlobPath(k)
	}
	return ""
}

// copyOne makes the other form of a blob. Should the file be broken, the
// source is asked.
func (j *job) copyOne(ctx context.Context, w store.Want, local string) error {
	if err := j.ingest.Forget(w.Key); err != nil {
		return err
	}
	return j.stream(ctx, w, func(int64) (io.ReadCloser, error) { return os.Open(local) })
}

// stream writes one blob, verifying.
func (j *job) stream(ctx context.Context, w store.Want, open func(offset int64) (io.ReadCloser, error)) error {
	out, err := j.ingest.Create(w.Key, w.Size)
	if err != nil {
		return err
	}
	if out.Complete() && out.Offset() > 0 {
		return out.Close() // nothing but the hash was missing
	}
	in, err := open(out.Offset())
	if err != nil {
		return errors.Join(err, out.Suspend())
	}
	defer in.Close()
	_, err = store.Copy(counted{out, j, w.Size >= 0}, reader{ctx, in})
	switch {
	case err != nil && !out.Complete():
		return errors.Join(err, out.Suspend())
	case w.Size >= 0 && !out.Complete():
		// The source has no more content: this is another blob.
		short := errkind.New(errkind.Untrusted, "cannot store blob %s: it has %d bytes, the package names %d", w.Key.Digest.Short(), out.Size(), w.Size)
		return errors.Join(short, out.Suspend())
	}
	return out.Close()
}

// reader ends when ctx does, even if the source ignores it.
type reader struct {
	ctx context.Context
	in  io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(b)
}

// counted reports its progress to the job.
type counted struct {
	out   *store.Writer
	j     *job
	count bool // metas are not: their size is not known beforehand
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.out.Write(b)
	if c.count {
		c.j.advance(int64(n))
	}
	return n, err
}
