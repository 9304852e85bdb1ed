// Package repo reads repositories: static folders behind a web server, or local
// ones.
//
// Words: a repository is a folder with
//
//	root.json                                  the newest root, for people to copy
//	metadata/N.root.json, N.targets.json, …    TUF metadata, consistent snapshots
//	metadata/timestamp.json                    what is looked at first
//	channels/<name>/<sha256>.<channel>.json    pointers: TUF's targets
//	blobs/<hash>.zst                           content; zstd, seekable when large
//
// A pointer says which package a channel offers. The root of trust is the
// root.json that the administrator has configured. Marks are the highest
// versions of metadata ever accepted under it.
//
// Trust: TUF (https://theupdateframework.github.io/specification/latest/)
// protects pointers against forging, rollback and freezing, over restarts too:
// accepted metadata is kept in the state folder, and apart from it the marks.
// Cached metadata that is damaged is set aside and fetched anew; the marks still
// hold. A blob is trusted because its SHA-256 is what a meta or pointer names;
// this package hands it on unchecked, and whoever keeps it must check its digest
// and bound its size.
//
// A hostile or broken server can make calls fail, and not more: metadata,
// pointers, headers and zstd windows are bounded, and a transfer that stands
// still is given up.
//
// A Client is safe for concurrent use. One mutex serialises work on metadata,
// since go-tuf is not made for more; blobs are fetched beside each other without
// it. Calls block on the network as long as their context lets them. Failures
// that look passing are tried again with growing pauses.
package repo
