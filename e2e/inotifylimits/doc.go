// Package inotifylimits runs the agent where the kernel gives it less than it asks for.
package inotifylimits
