// Package words has the words that the agent, the launcher and the users' helpers
// exchange. They are generated from the documentation of the bus interfaces:
// LaunchWaits in dbus/org.lull.Session1.xml, Helper.Work in
// dbus/org.lull.Agent1.xml. It holds no state.
//
// Of the words of the marker, refresh-pending means that policy blocks new launches until the
// application was vacant; refresh-in-progress that the critical section goes on, so that
// everything waits; refresh-starting that the new revision is linked: services start, and
// applications wait for the health check.
package words
