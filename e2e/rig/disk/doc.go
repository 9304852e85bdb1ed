// Package disk is a disk as a machine sees one that may lose power: it has a
// cache that forgets. A virtual machine reaches it as a network block device
// (NBD) over a Unix socket.
//
// Words:
//
//   - the base is a file that is only read; what is written stays in memory
//   - a write is pending until the machine asks for a flush; then it is stable
//   - to cut is to forget pending writes: all, none, or any of them, and a
//     write may be torn between two physical blocks, as on real disks
//
// So writes that software relied on without a flush get lost here sooner or
// later, which killing an emulator alone never shows: the host still
// has every write that the guest's kernel has sent.
//
// A Disk may be used from everywhere. One goroutine serves each connection; the
// hooks are called by it, with the disk locked.
package disk
