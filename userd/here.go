package userd

import (
	"fmt"
	"os"
	"strings"

	"github.com/lull/lull/agent/lib/dialer"
)

// here reports whether a process belongs to the session whose bus is own, as
// far as this can be determined. A user may be logged in twice, with a desktop
// and a bus each, and is notified where the application is visible. A process
// on the bus that this helper was started with belongs here too, and so does
// one whose bus cannot be determined.
func here(own string) func(pid uint32) bool {
	own, started := busSocket(own), busSocket(sessionBus(""))
	return func(pid uint32) bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return true
		}
		for entry := range strings.SplitSeq(string(b), "\x00") {
			if address, ok := strings.CutPrefix(entry, "DBUS_SESSION_BUS_ADDRESS="); ok {
				return busSocket(address) == own || busSocket(address) == started
			}
		}
		return true
	}
}

// sessionBus is the address of the bus that address names; empty means that of
// the environment.
func sessionBus(address string) string {
	if address == "" {
		address = dialer.SessionAddress()
	}
	return address
}

// busSocket identifies a bus in an address: the socket, without parts that a
// client only has to check, as the guid.
func busSocket(address string) string {
	first, _, _ := strings.Cut(address, ";")
	_, keys, _ := strings.Cut(first, ":")
	for key := range strings.SplitSeq(keys, ",") {
		if strings.HasPrefix(key, "path=") || strings.HasPrefix(key, "abstract=") {
			return key
		}
	}
	return first
}
