// Package shutdown tests which locks against shutdown a refresh takes, on a real logind.
package shutdown
