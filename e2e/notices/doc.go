// Package notices tests the notices to users and applications by a real agent
// and a real helper: buttons, hooks, launches that wait, a machine that goes
// off, and an application that asks about itself.
package notices
