// Package telling checks that the agent says the same about itself wherever it
// is asked: `lull inspect`, the properties on the bus, and the file for
// Prometheus; while something is being fetched from a slow web server, and while
// nothing happens at all.
package telling
