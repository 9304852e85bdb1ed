// Package publishing publishes to real servers: an S3-compatible object store, by the command
// line, and a directory behind nginx with the configuration that docs/repository.md shows.
//
// The object store is the Versity S3 Gateway. It comes through the Go module proxy, so it
// needs no other download; it is made for production; and it implements conditional writes,
// bucket policies and the headers of objects. Debian has no small server that does: radosgw
// needs a Ceph cluster.
package publishing
