// Package hostile tests how lull takes broken and hostile input: metas,
// repositories, blobs, policies, bus arguments, full disks. Each must end in
// one clear error that names what is wrong, and leave nothing half installed.
package hostile
