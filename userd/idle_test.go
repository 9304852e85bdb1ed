package userd

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lull/lull/userd/desktop"
	"github.com/lull/lull/userd/notify"
	"github.com/lull/lull/userd/sessionjobs"
)

// hands do what they are given to.
type hands chan struct{}

func (h hands) Do(context.Context, sessionjobs.Job) error { <-h; return nil }

func TestIdle(t *testing.T) {
	const after = 30 * time.Second
	file := filepath.Join(t.TempDir(), "wanted")
	with := func(name, path string, test func(i *idler, ended func() bool)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				over := make(chan struct{}, 8)
				var files []string
				if path != "" {
					files = []string{path + ".own", path}
				}
				i := newIdler(files, after, func(none func()) {
					if name == "no server" {
						none()
					}
				}, func() { over <- struct{}{} })
				defer i.close()
				test(i, func() bool {
					time.Sleep(after + time.Second)
					synctest.Wait()
					return len(over) > 0
				})
			})
		})
	}
	show := notify.Show{Notice: notify.Notice{Instance: "a"}}
	with("nothing to do", file, func(i *idler, ended func() bool) {
		time.Sleep(after - time.Second)
		i.ordered() // restarts the idle time
		time.Sleep(after - time.Second)
		if synctest.Wait(); !ended() {
			t.Error("it stays")
		}
	})
	with("nobody would start it again", "", func(i *idler, ended func() bool) {
		i.event("", notify.Tick{})
		if ended() {
			t.Error("it ends")
		}
	})
	with("a notice", file, func(i *idler, ended func() bool) {
		i.desktop(desktop.AgentPresent{Yes: true})
		i.desktop(show)
		if ended() {
			t.Error("it ends beneath a notice")
		}
		i.event("", notify.Closed{Instance: "a"})
		if !ended() {
			t.Error("it stays without a notice")
		}
	})
	with("no server", file, func(i *idler, ended func() bool) {
		i.desktop(show)
		if !ended() {
			t.Error("it stays for a notice that nobody shows")
		}
	})
	with("news for somebody who is away", file, func(i *idler, ended func() bool) {
		i.event("", notify.Locked{Yes: true})
		i.event("", notify.Updated{Done: notify.Done{Instance: "a"}})
		if ended() {
			t.Error("it ends with the news")
		}
		i.event("", notify.Locked{})
		i.desktop(show)
		i.desktop(notify.Close{Instance: "a"})
		if !ended() {
			t.Error("it stays when all is told")
		}
	})
	with("work", file, func(i *idler, ended func() bool) {
		h := make(hands)
		go counted{h, i}.Do(t.Context(), sessionjobs.Job{})
		if ended() {
			t.Error("it ends in the middle")
		}
		h <- struct{}{}
		if !ended() {
			t.Error("it stays when the work is done")
		}
	})
	with("wanted", file, func(i *idler, ended func() bool) {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if ended() {
			t.Error("it ends, and would come back at once")
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if ended() {
			t.Error("it looks without a cause")
		}
		i.event("", notify.Finished{Instance: "a"})
		if !ended() {
			t.Error("it stays when nothing is pending any more")
		}
	})
}
