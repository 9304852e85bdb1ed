// Command demo shows the main job of lull, step by step and in plain words: a
// running application is refreshed safely. It works in a scratch directory
// with a bus of its own, and removes everything at the end, also when it is
// interrupted.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/story"
)

func main() { rig.MainOfProgram(demo) }

func demo() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	began := time.Now()
	options, err := circumstances()
	if err == nil {
		err = rig.Run(ctx, os.Stderr, func(tb rig.TB) {
			if !options.Rootless {
				rig.Turn(tb, func() { fmt.Println("waiting for another test of lull on this machine …") })
			}
			story.Tell(tb, &teller{began: began}, options)
		})
	}
	if err != nil && options.Picture != "" {
		os.Remove(options.Picture)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Println("\ninterrupted; everything has been cleaned up")
		return 130
	case err != nil:
		fmt.Fprintf(os.Stderr, "\nlull: the demonstration failed: %v\n", err)
		return 1
	}
	fmt.Printf("\nThat was all, in %d seconds.", int(time.Since(began).Seconds()))
	if options.Picture != "" {
		fmt.Printf(" Nothing is left of it but the picture of the notice: %s", options.Picture)
	}
	fmt.Println()
	return 0
}

// circumstances determines how the story can run here.
func circumstances() (story.Options, error) {
	o := story.Options{Rootless: os.Getuid() != 0}
	if o.Rootless {
		if _, err := os.Stat(os.Getenv("XDG_RUNTIME_DIR") + "/systemd"); !rig.Booted() || err != nil {
			return o, fmt.Errorf("cannot track processes: an ordinary user needs a session of systemd for that; root does not")
		}
	}
	o.OwnDesktop = hasDesktop()
	if !o.OwnDesktop {
		f, err := os.CreateTemp("", "lull-notice-*.png")
		if err != nil {
			return o, err
		}
		f.Close()
		o.Picture = f.Name()
	}
	return o, nil
}

// hasDesktop reports whether this user has a notification server.
func hasDesktop() bool {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" || os.Getuid() == 0 {
		return false
	}
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return false
	}
	defer conn.Close()
	var has bool
	err = conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, "org.freedesktop.Notifications").Store(&has)
	return err == nil && has
}

// teller prints a story on the terminal.
type teller struct{ began time.Time }

func (t *teller) Step(n int, title string) {
	fmt.Printf("\n%s\n", bold(fmt.Sprintf("%d. %s", n, title)))
}

func (t *teller) Say(format string, args ...any) {
	fmt.Printf("%7.2f s  %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
}

func (t *teller) Ran(r rig.Result) {
	fmt.Printf("%7.2f s  $ %s\n", time.Since(t.began).Seconds(), strings.Join(r.Args, " "))
	text := strings.TrimRight(r.Text(), "\n")
	if text == "" {
		return
	}
	lines := strings.Split(text, "\n")
	const most = 16
	for i, line := range lines {
		if i == most && len(lines) > most+1 {
			fmt.Printf("           … %d more lines\n", len(lines)-most)
			break
		}
		fmt.Printf("           %s\n", line)
	}
	if r.Code != 0 {
		fmt.Printf("           (exit status %d)\n", r.Code)
	}
}

// bold stresses a line on a terminal.
func bold(s string) string {
	st, err := os.Stdout.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" {
		return s
	}
	return "\x1b[1m" + s + "\x1b[0m"
}
