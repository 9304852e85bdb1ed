// Package session tests what a refresh does in users' sessions: real users with
// systemd managers of their own, in containers with the unified cgroup hierarchy
// and with the hybrid one.
package session
