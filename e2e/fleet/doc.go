// Package fleet has machines follow a repository through a week, with the agent's own code for
// repositories and schedules, and real nginx. Time is compressed (testing/synctest): it stands
// while a request is served, and jumps to the next event when all machines wait. Their network
// is in memory, with the faults of a bad one; what it does not break is served by nginx.
package fleet
