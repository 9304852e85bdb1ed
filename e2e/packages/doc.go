// Package packages tests what the .deb and the .rpm do to a machine: their
// maintainer scripts are run by dpkg and by rpm in a booted container.
package packages
