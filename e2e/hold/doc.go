// Package hold has two users, an administrator and a real polkit say "not now":
// which user may hold a refresh for how long, and who may end it.
package hold
