package bucket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
)

// uploads is the number of objects that are written or deleted at the same time.
const uploads = 16

// The Cache-Control of objects. The name of an immutable one has a hash or a version.
const (
	immutable  = "public, max-age=31536000, immutable"
	shortLived = "public, max-age=60"
)

// options returns the headers with which a file is served.
func options(file string) minio.PutObjectOptions {
	o := minio.PutObjectOptions{CacheControl: immutable, ContentType: "application/octet-stream", DisableMultipart: false, NumThreads: 2}
	switch path.Ext(file) {
	case ".json":
		o.ContentType = "application/json"
	case ".zst":
		o.ContentType = "application/zstd"
	}
	dir, _, below := strings.Cut(file, "/")
	if !below || dir == "names" || file == "metadata/timestamp.json" {
		o.CacheControl = shortLived
	}
	return o
}

// Put stages a file.
func (b *Bucket) Put(_ context.Context, f publish.Object) error {
	b.staged = append(b.staged, f)
	return nil
}

// Discard drops what is staged.
func (b *Bucket) Discard() { b.staged = nil }

// Flush writes the staged files in parallel.
func (b *Bucket) Flush(ctx context.Context) error {
	staged := b.staged
	b.staged = nil
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, f := range staged {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return b.put(ctx, f, options(f.Path))
		})
	}
	return g.Wait()
}

// put writes an object. It is complete, or it does not exist.
func (b *Bucket) put(ctx context.Context, f publish.Object, o minio.PutObjectOptions) error {
	var body io.Reader = bytes.NewReader(f.Data)
	size := int64(len(f.Data))
	if f.From != "" {
		file, err := os.Open(f.From)
		if err != nil {
			return err
		}
		defer file.Close()
		fi, err := file.Stat()
		if err != nil {
			return err
		}
		body, size = file, fi.Size()
	}
	_, err := b.client.PutObject(ctx, b.bucket, b.key(f.Path), body, size, o)
	return b.failed("write", f.Path, err)
}

// Create writes what is staged, and then an object that must be new.
func (b *Bucket) Create(ctx context.Context, f publish.Object) error {
	if err := b.Flush(ctx); err != nil {
		return err
	}
	o := options(f.Path)
	o.SetMatchETagExcept("*")
	if err := b.conditional(ctx, f, o); err != nil {
		return err
	}
	return b.checkConditions(ctx, f)
}

// Swap replaces an object that still has a tag.
func (b *Bucket) Swap(ctx context.Context, f publish.Object, tag string) error {
	o := options(f.Path)
	if tag == "" {
		o.SetMatchETagExcept("*")
	} else {
		o.SetMatchETag(tag)
	}
	return b.conditional(ctx, f, o)
}

// conditional writes an object under a condition. If the reply to an attempt was lost, the
// next attempt does not fulfil the condition: then the content decides whether it was ours.
func (b *Bucket) conditional(ctx context.Context, f publish.Object, o minio.PutObjectOptions) error {
	err := b.put(ctx, f, o)
	if errors.Is(err, fs.ErrExist) {
		if data, _, rerr := b.Read(ctx, f.Path); rerr == nil && bytes.Equal(data, f.Data) {
			return nil
		}
	}
	return err
}

// checkConditions makes sure, once, that the server does not ignore conditions. It repeats
// the creation of a file, with conditions that do not hold.
func (b *Bucket) checkConditions(ctx context.Context, f publish.Object) error {
	if b.sure {
		return nil
	}
	for header, set := range map[string]func(*minio.PutObjectOptions, string){
		"If-None-Match": (*minio.PutObjectOptions).SetMatchETagExcept,
		"If-Match":      (*minio.PutObjectOptions).SetMatchETag,
	} {
		o := options(f.Path)
		tag := "*"
		if header == "If-Match" {
			tag = "00000000000000000000000000000000"
		}
		set(&o, tag)
		err := b.put(ctx, f, o)
		if err == nil {
			return errkind.New(errkind.Failed, "cannot publish to %s: the server ignores %s, so that two publishers at the same time would damage the repository", b, header)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	b.sure = true
	return nil
}

// Remove deletes objects.
func (b *Bucket) Remove(ctx context.Context, paths []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, p := range paths {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := b.failed("delete", p, b.client.RemoveObject(ctx, b.bucket, b.key(p), minio.RemoveObjectOptions{}))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}
