package repo

import "time"

// Hurry makes pauses and the patience with a transfer that stands still short.
func (c *Client) Hurry() {
	if w, ok := c.src.(*web); ok {
		w.retry = backoff{tries: 4, first: time.Millisecond, most: 4 * time.Millisecond, stall: 200 * time.Millisecond}
	}
}

// SetNow sets the clock.
func (c *Client) SetNow(now time.Time) { c.now = func() time.Time { return now } }

// Unavailable is the error about a server that cannot be read.
func (c *Client) Unavailable(what string, err error) error { return c.unavailable(what, err) }

// State is the folder of the accepted metadata.
func (c *Client) State() string { return c.state }

// ParseSeekTable finds the seek table at the end of a file and returns how many
// frames it has.
func ParseSeekTable(file []byte) int {
	need, ok := seekTableSize(file)
	if !ok || need > int64(len(file)) {
		return 0
	}
	frames, err := parseSeekTable(file[int64(len(file))-need:], int64(len(file)))
	if err != nil {
		return 0
	}
	return len(frames)
}
