// Package publish makes repositories and puts packages into them.
//
// Words: a package source is a folder with a lull.yaml beside the package's
// files. The keys of a repository, one for each role of TUF, lie in a folder
// outside of it (by default its path and ".keys"), with the root that they
// belong to: what stands in the repository is signed on only if that root vouches
// for it, so that nobody who can write to the web server gets anything signed.
//
// Everything is written so that a reader who comes at any moment sees the state
// before or the state after: blobs, flushed together and then moved into place;
// the pointer, under a name with its hash; targets and snapshot under names with
// their version; and last, in one rename, the timestamp that makes them count.
// Whatever is killed in between leaves files that nobody names, and is done again
// by the next run.
//
// A publisher holds a lock (flock) on the repository's folder; another one waits.
// The functions keep no state between calls and may be called from anywhere; they
// block on the disk and on that lock until their context ends.
package publish
