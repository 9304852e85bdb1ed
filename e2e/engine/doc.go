// Package engine has real agents refuse commands, fail in both directions of a
// refresh, and start services that do not stay up: whatever the state of one
// instance, work under way for it and for others goes on or is shown.
package engine
