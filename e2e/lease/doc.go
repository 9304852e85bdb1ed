// Package lease holds packages open: thousands at a time, by clients that die, by
// name through what contains them.
package lease
