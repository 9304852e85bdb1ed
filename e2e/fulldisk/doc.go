// Package fulldisk runs the agent where there is not enough space for all that
// it is asked to do: ephemeral runs one after the other, a disk with nothing
// left, a repair without room.
package fulldisk
