//go:build faultpoint

package faultpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

var (
	mu     sync.Mutex
	passed = map[string]int{}
	armed  = parse(os.Getenv("LULL_FAULT"))

	between func(string)
)

// parse reads NAME[#N]:ACTION,… into "NAME#N" → ACTION.
func parse(spec string) map[string]string {
	m := map[string]string{}
	for item := range strings.SplitSeq(spec, ",") {
		name, action, ok := strings.Cut(item, ":")
		if !ok {
			continue
		}
		if !strings.Contains(name, "#") {
			name += "#1"
		}
		m[name] = action
	}
	return m
}

// Between registers f, which is called at each passage with the name of the
// point and the number of the passage, NAME#N.
func Between(f func(point string)) {
	mu.Lock()
	defer mu.Unlock()
	between = f
}

// gate waits for a test at both ends of what it does meanwhile.
func gate(name string) error {
	path := os.Getenv("LULL_FAULT_GATE")
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, name)
	w.Close()
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	return r.Close()
}

// Hit passes the point of that name.
func Hit(name string) error {
	mu.Lock()
	passed[name]++
	key := name + "#" + strconv.Itoa(passed[name])
	list := os.Getenv("LULL_FAULT_LIST")
	if list != "" {
		if f, err := os.OpenFile(list, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			fmt.Fprintln(f, name)
			f.Close()
		}
	}
	f := between
	mu.Unlock()
	if f != nil {
		f(key)
	}
	action, ok := armed[key]
	if !ok {
		action = armed[name+"#*"]
	}
	switch action {
	case "gate":
		return gate(name)
	case "kill":
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	case "stop":
		syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
	case "error":
		return fmt.Errorf("fault point %s", name)
	case "enospc":
		return fmt.Errorf("fault point %s: %w", name, syscall.ENOSPC)
	}
	return nil
}
