// Package shutdown tests which locks against shutdown a refresh takes, on a real logind, and what
// becomes of a refresh when a machine is switched off in the middle of it.
package shutdown
