// Package catalog tests what programs can ask the agent about packages and their past
// without starting anything.
package catalog
