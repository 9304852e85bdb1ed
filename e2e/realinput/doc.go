// Package realinput does the main job with real payloads: a desktop
// application in two versions as Debian ships them, in a real window, and the
// Go toolchain with its fifteen thousand files.
package realinput
