// Package fulldisk runs the agent with too little space for its
// requests: ephemeral runs one after the other, a disk with nothing
// left, a repair without room.
package fulldisk
