// Package vacancy asks the kernel whether anything uses files, and keeps it so for a
// while.
//
// # Words
//
// A write lease (fcntl(2), F_SETLEASE with F_WRLCK) is granted only if no other open
// file description of the inode exists: no process executes it, has it mapped,
// or has it open, from any cgroup, mount or PID namespace, and through any
// hard link
// or overlay. Descriptors opened with O_PATH do not count. While a lease is held, an
// open or an exec by path waits in the kernel, for at most fs.lease-break-time (45 s by
// default); then the kernel takes the lease away.
//
// A Seal is a set of leases: one of a tether and those of a package's files. The tether
// is a file that every process of an application inherits open (see package runctl).
// A denied file has another user; a refused one cannot be leased at all (NFS, FUSE,
// fs.leases-enable=0). A Holder is a process that uses one of the files.
//
// A scan of /proc finds the names of holders. It is never the proof that there are
// none, except where leases are refused.
//
// # Concurrency
//
// One Leases serves a process: two seals over the same inode share its lease, because
// the kernel would deny the second. A Seal belongs to one goroutine. Nothing here
// waits, except that a scan takes as long as its budget allows. Closing a file
// description takes effect a moment after the process that closed it, or inotify,
// shows it: a denied caller retries after a short time (Patience).
package vacancy
