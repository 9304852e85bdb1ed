// Package bucket keeps a repository in a bucket of an object store that speaks the S3
// protocol.
//
// Words: an address is s3://BUCKET or s3://BUCKET/PREFIX. The object of a file is named by
// the prefix and the file's path.
//
// Publishers do not exclude each other. An object that must be new is written with
// If-None-Match, and one that must be unchanged with If-Match, so the server decides between
// them. A server that ignores these conditions is refused. No decision depends on a listing,
// which may lag.
//
// A Bucket keeps no files. It may be used from any goroutine, except that one at a time
// writes. Calls block on the network until their context ends. Transient failures, such as
// 503 SlowDown, are retried with growing pauses.
package bucket

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/tempdir"
	"github.com/lull/lull/agent/repo/publish"
)

// Bucket is a repository in a bucket. It implements publish.Storage.
type Bucket struct {
	client *minio.Client
	core   minio.Core
	bucket string
	prefix string // "" or with a final slash

	staged []publish.Object // of Put, until the next Flush or Create; used by one goroutine
	sure   bool             // the server respects conditions; likewise

	scratch []*tempdir.Dir // of Scratch: their locks end with this process; likewise
}

// Scheme begins the address of a bucket.
const Scheme = "s3://"

// retries is the number of attempts of a request, with pauses that grow to a second.
const retries = 10

// staleAfter is the age at which a blob that no signature is known to need is written again,
// so that its age protects it from being pruned meanwhile.
const staleAfter = publish.MinSharedGrace / 2

// names are the names of buckets (Amazon S3 User Guide, "General purpose bucket naming rules").
var names = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`) })

// Open prepares to use a bucket, without a request. Server, region and credentials are those
// of the environment, as for Amazon's tools: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL,
// AWS_REGION or AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or a
// profile of the shared credentials file, or the identity of a container or web token. Error
// Invalid: that is not an address.
func Open(address string) (*Bucket, error) {
	bucket, prefix, err := parse(address)
	if err != nil {
		return nil, err
	}
	endpoint, secure, err := server()
	if err != nil {
		return nil, err
	}
	region := first("AWS_REGION", "AWS_DEFAULT_REGION")
	if region == "" {
		region = "us-east-1"
	}
	client, err := minio.New(endpoint, &minio.Options{Creds: identity(), Secure: secure, Region: region, MaxRetries: retries})
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot use the server %s: %w", endpoint, err)
	}
	client.SetAppInfo("lull", "1")
	return &Bucket{client: client, core: minio.Core{Client: client}, bucket: bucket, prefix: prefix}, nil
}

func parse(address string) (bucket, prefix string, err error) {
	rest, ok := strings.CutPrefix(address, Scheme)
	bucket, prefix, _ = strings.Cut(rest, "/")
	prefix = strings.Trim(prefix, "/")
	switch {
	case !ok || !names().MatchString(bucket):
		err = errkind.New(errkind.Invalid, "cannot use the address %.200q: want s3://BUCKET/PREFIX", address)
	case prefix == "":
	case path.Clean("/"+prefix) != "/"+prefix || len(prefix) > 512 || strings.ContainsAny(prefix, "?#%\x00"):
		err = errkind.New(errkind.Invalid, "cannot use the prefix %.200q of bucket %s", prefix, bucket)
	default:
		prefix += "/"
	}
	return bucket, prefix, err
}

// server returns the host of the object store, and whether it is asked by https.
func server() (host string, secure bool, err error) {
	address := first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	if address == "" {
		return "s3.amazonaws.com", true, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return "", false, errkind.New(errkind.Invalid, "cannot use AWS_ENDPOINT_URL: want https://HOST or http://HOST:PORT")
	}
	return u.Host, u.Scheme == "https", nil
}

// first returns the first environment variable that has a value.
func first(variables ...string) string {
	for _, v := range variables {
		if text := os.Getenv(v); text != "" {
			return text
		}
	}
	return ""
}

// identity returns the credentials of the environment. The identity of a machine or
// container takes a request, so it is tried only where the environment announces it.
func identity() *credentials.Credentials {
	chain := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	if first("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" {
		chain = append(chain, &credentials.IAM{})
	}
	return credentials.NewChainCredentials(chain)
}

// String returns the address.
func (b *Bucket) String() string { return Scheme + b.bucket + "/" + strings.TrimSuffix(b.prefix, "/") }

// Lock does nothing: see Shared.
func (b *Bucket) Lock(context.Context) (func(), error) { return func() {}, nil }

// Shared reports true.
func (b *Bucket) Shared() bool { return true }

// Scratch makes a directory for temporary files ($TMPDIR).
func (b *Bucket) Scratch() (string, error) {
	dir, err := tempdir.Make("lull-publish-")
	if err != nil {
		return "", err
	}
	b.scratch = append(b.scratch, dir)
	return dir.Path(), nil
}

func (b *Bucket) key(path string) string { return b.prefix + path }

// Read returns an object; its tag is the ETag.
func (b *Bucket) Read(ctx context.Context, path string) ([]byte, string, error) {
	var data []byte
	var tag string
	err := b.get(ctx, path, func(r io.Reader, i minio.ObjectInfo) (err error) {
		tag = i.ETag
		if data, err = io.ReadAll(io.LimitReader(r, publish.MaxRead+1)); err == nil && len(data) > publish.MaxRead {
			err = errkind.Errorf("it is larger than %d bytes", publish.MaxRead)
		}
		return err
	})
	return data, tag, err
}

// get calls use with an object. A body that ends too early is requested again.
func (b *Bucket) get(ctx context.Context, path string, use func(io.Reader, minio.ObjectInfo) error) (err error) {
	for range 3 {
		var body io.ReadCloser
		var info minio.ObjectInfo
		if body, info, _, err = b.core.GetObject(ctx, b.bucket, b.key(path), minio.GetObjectOptions{}); err == nil {
			err = use(body, info)
			body.Close()
		}
		if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) || ctx.Err() != nil {
			break
		}
	}
	return b.failed("read", path, err)
}

// Open returns the content of an object.
func (b *Bucket) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	body, _, _, err := b.core.GetObject(ctx, b.bucket, b.key(path), minio.GetObjectOptions{})
	if err != nil {
		return nil, b.failed("read", path, err)
	}
	return body, nil
}

// Stat describes an object.
func (b *Bucket) Stat(ctx context.Context, path string) (publish.Info, error) {
	i, err := b.client.StatObject(ctx, b.bucket, b.key(path), minio.StatObjectOptions{})
	return publish.Info{Size: i.Size, Modified: i.LastModified}, b.failed("read", path, err)
}

// List calls do with each object below a prefix.
func (b *Bucket) List(ctx context.Context, prefix string, do func(string, publish.Info) error) error {
	for i := range b.client.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.key(prefix), Recursive: true}) {
		if i.Err != nil {
			return b.failed("list", prefix, i.Err)
		}
		if strings.HasSuffix(i.Key, "/") {
			continue // a directory that a file manager has made
		}
		if err := do(strings.TrimPrefix(i.Key, b.prefix), publish.Info{Size: i.Size, Modified: i.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Keep reports whether a blob exists that is young enough not to be pruned meanwhile.
func (b *Bucket) Keep(ctx context.Context, path string) (bool, error) {
	i, err := b.Stat(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && time.Since(i.Modified) < staleAfter, err
}

// failed makes an error name the object. A missing object wraps fs.ErrNotExist. A server
// answers 403 AccessDenied for a missing object if the publisher may not list the bucket, so
// that counts as missing, too.
func (b *Bucket) failed(op, path string, err error) error {
	if err == nil {
		return nil
	}
	r := minio.ToErrorResponse(err)
	name := Scheme + b.bucket + "/" + b.key(path)
	switch {
	case r.Code == minio.NoSuchKey || r.Code == "NotFound" || r.StatusCode == http.StatusNotFound && r.Code != minio.NoSuchBucket:
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	case r.Code == minio.AccessDenied && op == "read":
		return &fs.PathError{Op: op, Path: name, Err: errkind.Errorf("%w, or access is denied", fs.ErrNotExist)}
	case r.StatusCode == http.StatusPreconditionFailed, r.StatusCode == http.StatusConflict && r.Code == "ConditionalRequestConflict":
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrExist}
	case errors.Is(err, context.Canceled):
		return errkind.New(errkind.Interrupted, "cannot %s %s: %w", op, name, err)
	case r.StatusCode == http.StatusForbidden:
		return errkind.New(errkind.NotPermitted, "cannot %s %s: %w", op, name, err)
	case r.StatusCode >= 400 && r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests:
		return errkind.New(errkind.Failed, "cannot %s %s: %w", op, name, err)
	}
	return errkind.New(errkind.Unavailable, "cannot %s %s: %w", op, name, err)
}
