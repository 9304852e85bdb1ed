// Package stress does for a while what the protocol's model covers: launches and
// refreshes without a pause, while the agent and the launchers are killed. What
// runs looks itself whether promise 1 holds.
package stress
