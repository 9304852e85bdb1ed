// Package publish makes repositories and puts packages into them.
//
// Words: a package source is a directory with a lull.yaml beside the package's files. The
// keys of a repository, one for each role of TUF, are in a directory outside of it (by
// default its path and ".keys"), with their root. The content of the repository is signed
// only if that root vouches for it. So write access to the web server is not enough to get
// content signed.
//
// Files are written in an order that shows each reader the state before or the state after:
// blobs, flushed together and then moved into place; the pointer, under a name with its hash;
// targets and snapshot under names with their version; and last, in one rename, the timestamp
// that puts them in force. A run that is killed in between leaves files without references.
// The next run repeats its work.
//
// A repository is in a directory of this machine or in another Storage. In a directory, a
// publisher holds a lock (flock), and others wait. In storage that publishers on several
// machines share, the creation of the next snapshot decides between them, and the others
// start from it. So the commit point of a publication there is its snapshot: the next
// publisher writes a timestamp that a killed one has not written.
//
// The snapshot names each bin, so that publishing among 100,000 packages consists mostly of
// reading and signing it. go-tuf converts it several times by reflection. With 4,096 bins that
// takes about 90 ms of processor time, and the goal for a whole publication is 50 ms (row
// publish-100k of the bench). So snapshot.go does it itself, in 13 ms, for snapshots in the form
// that lull writes, and leaves others to go-tuf. A test compares the bytes of both.
//
// The functions keep no state between calls and may be called from any goroutine. They block
// on the storage and on that lock until their context ends.
package publish
