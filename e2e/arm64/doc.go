// Package arm64 runs lull's package for arm64 in a root of that architecture, by
// user-mode emulation. The kernel is the host's: what only a kernel or systemd of
// arm64 would show is not seen here.
package arm64
