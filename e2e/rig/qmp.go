package rig

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"time"
)

// qmp has QEMU execute commands until one is answered with what is wanted. See QEMU's
// "QEMU Machine Protocol Specification".
func (vm *VM) qmp(limit time.Duration, until func(reply) bool, commands ...string) error {
	conn, err := net.Dial("unix", vm.path("qmp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	for _, c := range slices.Insert(commands, 0, "qmp_capabilities") {
		if _, err := fmt.Fprintf(conn, "{\"execute\": %q}\n", c); err != nil {
			return err
		}
	}
	for d := json.NewDecoder(conn); ; {
		var r reply
		if err := d.Decode(&r); err != nil {
			return fmt.Errorf("cannot wait for QEMU: %w", err)
		}
		if r.Error.Desc != "" {
			return fmt.Errorf("QEMU refuses: %s", r.Error.Desc)
		}
		if until(r) {
			return nil
		}
	}
}

// reply is what QEMU sends: an event, or a result.
type reply struct {
	Event string `json:"event"`
	Error struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Return struct {
		Status string `json:"status"`
	} `json:"return"`
}

// Suspended waits until the machine has suspended itself. It returns an error after a limit.
func (vm *VM) Suspended(limit time.Duration) error {
	vm.tb.Helper()
	return vm.qmp(limit, func(r reply) bool { return r.Event == "SUSPEND" || r.Return.Status == "suspended" }, "query-status")
}

// WakeUp wakes a suspended machine, as its power button does.
func (vm *VM) WakeUp() {
	vm.tb.Helper()
	if err := vm.qmp(time.Minute, func(r reply) bool { return r.Event == "WAKEUP" }, "system_wakeup"); err != nil {
		vm.tb.Fatalf("cannot wake the machine: %v", err)
	}
}
