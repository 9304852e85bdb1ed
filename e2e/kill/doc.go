// Package kill kills the agent with SIGKILL at every step of a refresh, and
// between the durable operations of its critical section, and checks what a
// restarted agent makes of it: the old or the new revision is current, its data
// is whole, no marker is left, and the refresh can be done.
package kill
