// Package introspection checks that the agent reports the same about itself wherever it
// is asked: `lull inspect`, the properties on the bus, and the file for
// Prometheus; while something is being fetched from a slow web server, and while
// nothing happens at all.
package introspection
