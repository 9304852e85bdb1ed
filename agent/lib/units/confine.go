package units

import (
	systemd "github.com/coreos/go-systemd/v22/dbus"
)

// The bounds of a confined program, beside those that it sets itself.
const (
	confinedMemory = 1 << 30 // bytes
	confinedTasks  = 64
)

// confinement takes away from a program all but its descriptors (systemd.exec(5),
// systemd.resource-control(5)): it has a user of its own without privileges, in root
// nothing but itself, no network, and the system calls of a program that computes. It
// must be linked statically. systemd makes empty directories in root. (A tmpfs there in
// place of a directory is not mounted with DynamicUser=, which makes / read-only.)
func confinement(program, root string) []systemd.Property {
	type mount struct {
		Source, Destination string
		IgnoreMissing       bool
		Flags               uint64
	}
	type list struct {
		Allow bool
		Names []string
	}
	return []systemd.Property{
		property("DynamicUser", true),
		property("SupplementaryGroups", []string{}),
		property("CapabilityBoundingSet", uint64(0)),
		property("AmbientCapabilities", uint64(0)),
		property("NoNewPrivileges", true),
		property("RootDirectory", root),
		property("BindReadOnlyPaths", []mount{{program, program, false, 0}}),
		property("MountAPIVFS", false),
		property("PrivateDevices", true),
		property("PrivateNetwork", true),
		property("PrivateTmp", false), // it has none at all
		property("ProtectProc", "invisible"),
		property("ProcSubset", "pid"),
		property("ProtectClock", true),
		property("ProtectControlGroups", true),
		property("ProtectHostname", true),
		property("ProtectKernelLogs", true),
		property("ProtectKernelModules", true),
		property("ProtectKernelTunables", true),
		property("LockPersonality", true),
		property("MemoryDenyWriteExecute", true),
		property("RemoveIPC", true),
		property("RestrictAddressFamilies", list{true, []string{}}),
		property("RestrictNamespaces", uint64(0)),
		property("RestrictRealtime", true),
		property("RestrictSUIDSGID", true),
		property("SystemCallArchitectures", []string{"native"}),
		property("SystemCallFilter", list{true, []string{"@system-service", "@sandbox", "~@privileged"}}),
		property("SystemCallErrorNumber", int32(1)), // EPERM
		property("UMask", uint32(0o077)),
		property("KeyringMode", "private"),
		property("MemoryMax", uint64(confinedMemory)),
		property("TasksMax", uint64(confinedTasks)),
		property("CPUWeight", uint64(20)),
		property("IOWeight", uint64(20)),
		property("Nice", int32(10)),
		property("OOMScoreAdjust", int32(500)),
	}
}
