// Package watch tests `lull channel watch` with Prometheus, its node exporter and several agents.
package watch
