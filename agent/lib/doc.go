// Package lib has no code: it is the directory of what all programs share. The agent,
// the helper, the launcher and the command line import the packages below it, with the
// rights that each program has of its own. They need no privileges, keep no state
// between calls unless their comment names it, and import nothing of this module but
// each other.
//
// By floors; each imports lower ones alone:
//
//	accounts, cgroup, copytree, deflate, dialer, digest, errkind, faultpoint, inotify, lz4, lzma,
//	messages, printable, sessionclass, share, tempdir, texts, wallclock, words; durable,
//	launchconf, manifest, runctl, runname, scopes, sysmanifest; environment,
//	storeid, units
package lib
