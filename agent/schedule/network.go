package schedule

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watchNetwork reports when a default route appears, as when the network comes up.
// rtnetlink(7) reports it regardless of the network's manager. Events are hints.
func (c *Checker) watchNetwork() (came <-chan struct{}, stop func()) {
	came, stop, err := c.Network()
	if err != nil {
		c.Log.Warn("the coming of the network is not noticed: repositories that could not be reached are tried by schedule only", "error", err)
		return nil, func() {}
	}
	return came, stop
}

// defaultRoutes follows the routes of the network namespace of the caller's thread.
func defaultRoutes() (came <-chan struct{}, stop func(), err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	groups := uint32(1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1))
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "rtnetlink") // its reads wait in the runtime's poller
	c := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			switch {
			case errors.Is(err, unix.ENOBUFS): // some were lost
			case err != nil:
				return // closed
			case !hasDefaultRoute(buf[:n]):
				continue
			}
			select {
			case c <- struct{}{}:
			default:
			}
		}
	})
	return c, func() { f.Close(); wg.Wait() }, nil
}

// hasDefaultRoute reports whether netlink messages contain a new default route.
func hasDefaultRoute(b []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false
	}
	for _, msg := range messages {
		if msg.Header.Type != unix.RTM_NEWROUTE || len(msg.Data) < unix.SizeofRtMsg {
			continue
		}
		rt := (*unix.RtMsg)(unsafe.Pointer(&msg.Data[0]))
		if rt.Dst_len == 0 && rt.Type == unix.RTN_UNICAST {
			return true
		}
	}
	return false
}
