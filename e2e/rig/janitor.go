package rig

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// janitorScript waits until the rig is gone, normally or not. If the world is
// still there ($1), the rig was killed: then processes with the world's name
// in their environment are ended, the freezer hierarchy is given back, and the
// world removed.
const janitorScript = `cat >/dev/null
test -d "$1" || exit 0
for i in 1 2 3; do
	for f in /proc/[0-9]*/environ; do
		p=${f#/proc/}; p=${p%/environ}
		test "$p" = "$$" || ! grep -qz "^LULL_[A-Z_]*=.*$1/" "$f" 2>/dev/null || kill -KILL "$p" 2>/dev/null
	done
	sleep 0.1
done
freezer=$2
case $(cat "$freezer/release_agent" 2>/dev/null) in "$1"/*)
	echo > "$freezer/release_agent"
	find "$freezer" -mindepth 1 -depth -type d -name '*.*' -path "$freezer/lull*" -exec rmdir {} + 2>/dev/null
	find "$freezer" -mindepth 1 -maxdepth 1 -type d -name 'lull*' -exec rmdir {} + 2>/dev/null ;;
esac
chmod -R u+w "$1" 2>/dev/null
rm -rf "$1"
`

// startJanitor starts a process that cleans up after a killed rig.
func (w *World) startJanitor() {
	w.Helper()
	cmd := exec.Command("sh", "-c", janitorScript, "lull-janitor", w.Dir, filepath.Join("/sys/fs/cgroup", "freezer"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stdin io.WriteCloser
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.Fatalf("cannot start a janitor: %v", err)
	}
	w.Cleanup(func() { // after the world's directory is gone, or is kept on purpose
		cmd.Process.Kill()
		stdin.Close()
		cmd.Wait()
	})
}
