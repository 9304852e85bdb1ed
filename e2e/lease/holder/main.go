// Holder is a client of the agent that holds a package open many times, until it is killed:
//
//	holder BUS-ADDRESS PACKAGE NUMBER
//
// It prints "holds NUMBER" when it has all leases.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	bus "github.com/lull/lull/dbus"
)

func main() { log.Fatal(hold(os.Args[1], os.Args[2], os.Args[3])) }

// hold returns only if it has failed.
func hold(address, pkg, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	conn, err := bus.DialFDs(context.Background(), address, false)
	if err != nil {
		return err
	}
	manager := bus.NewManagerProxy(conn, bus.AgentPath)
	leases := make([]*os.File, n)
	for i := range leases {
		dir, lease, _, err := manager.Open(context.Background(), pkg)
		if err != nil {
			return err
		}
		dir.Close()
		leases[i] = lease
	}
	fmt.Println("holds", len(leases))
	select {}
}
