// Package hold has two users, an administrator and a real polkit say "not now":
// who may hold what for how long, and who may end it.
package hold
