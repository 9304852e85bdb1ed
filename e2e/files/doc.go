// Package files tests `lull install FILE` with a real agent, converter and files: what
// is installed, refreshed, reverted and pruned, and what is refused or left behind when
// something fails in between.
package files
