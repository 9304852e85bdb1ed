package publish

import (
	"context"
	"io"
	"strings"

	"github.com/lull/lull/agent/repo"
)

// flat is the storage of a repository that lull made before blobs were in 256 directories. The
// rest of the package has the paths of repo.BlobPath only.
type flat struct{ Storage }

func (f flat) Read(ctx context.Context, path string) ([]byte, string, error) {
	return f.Storage.Read(ctx, repo.FlatPath(path))
}

func (f flat) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	return f.Storage.Open(ctx, repo.FlatPath(path))
}

func (f flat) Stat(ctx context.Context, path string) (Info, error) {
	return f.Storage.Stat(ctx, repo.FlatPath(path))
}

func (f flat) Keep(ctx context.Context, path string) (bool, error) {
	return f.Storage.Keep(ctx, repo.FlatPath(path))
}

func (f flat) List(ctx context.Context, prefix string, do func(string, Info) error) error {
	return f.Storage.List(ctx, prefix, func(path string, i Info) error {
		if name, ok := strings.CutPrefix(path, "blobs/"); ok && len(name) > 2 && !strings.Contains(name, "/") {
			path = "blobs/" + name[:2] + "/" + name
		}
		return do(path, i)
	})
}

func (f flat) Put(ctx context.Context, o Object) error {
	o.Path = repo.FlatPath(o.Path)
	return f.Storage.Put(ctx, o)
}

func (f flat) Create(ctx context.Context, o Object) error {
	o.Path = repo.FlatPath(o.Path)
	return f.Storage.Create(ctx, o)
}

func (f flat) Remove(ctx context.Context, paths []string) error {
	old := make([]string, len(paths))
	for i, p := range paths {
		old[i] = repo.FlatPath(p)
	}
	return f.Storage.Remove(ctx, old)
}
