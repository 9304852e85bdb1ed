// Package badinput damages what an installation consists of, while the agent runs
// and before it starts: state.db, links, packages, data, markers, the file system.
// Each must be a clear error or put itself right, and nothing may be lost.
package badinput
