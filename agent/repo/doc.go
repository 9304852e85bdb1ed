// Package repo reads repositories: static directories behind a web server, or local
// ones.
//
// Words: a repository is a directory with
//
//	root.json                                  the newest root, for people to copy
//	metadata/N.root.json, N.targets.json, …    TUF metadata, consistent snapshots
//	metadata/timestamp.json                    the file that is read first
//	channels/<name>/<sha256>.<channel>.json    pointers: TUF's targets
//	blobs/ab/<hash>.zst                        content; zstd, seekable when large
//
// A pointer names the package that a channel offers. The root of trust is the
// root.json that the administrator has configured. Marks are the highest
// versions of metadata ever accepted under it.
//
// Trust: TUF (https://theupdateframework.github.io/specification/latest/)
// protects pointers against forging, rollback and freezing, over restarts too:
// the accepted metadata and, apart from it, the marks are kept in the state
// directory. Damaged metadata in the cache is set aside and fetched, and the marks
// remain valid. A blob is trusted because a manifest or pointer names its SHA-256.
// This package returns it unchecked: the caller must check its digest and bound
// its size.
//
// A hostile or broken server can only make calls fail: metadata, pointers, headers
// and zstd windows are bounded, and a stalled transfer is aborted.
//
// A Client is safe for concurrent use. One mutex serialises work on metadata,
// since go-tuf does not support more. Blobs are fetched concurrently, without it.
// Calls block on the network until their context ends. Transient failures are
// retried with growing pauses.
package repo
