package userd

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/lull/lull/userd/notify"
)

// memory is the file of announcements that must not be repeated. It is on a volatile
// file system and ends with the log-in: it needs to survive the helper, not
// the machine.
type memory struct {
	path string // empty if there is no place for it
	log  *slog.Logger
}

func newMemory(agent, session string, log *slog.Logger) memory {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return memory{"", log}
	}
	name := "notices.json"
	if s := busSocket(session); s != "path="+filepath.Join(dir, "bus") { // another session of this user
		name = fmt.Sprintf("notices-%x.json", sha256.Sum256([]byte(s)))[:len("notices-")+16] + ".json"
	}
	return memory{filepath.Join(dir, "lull-userd", agent, name), log}
}

// read returns the state that was written last. An unreadable file counts as
// empty: at worst a notice is shown twice.
func (m memory) read() map[string]notify.Memory {
	if m.path == "" {
		return nil
	}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var v map[string]notify.Memory
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		m.log.Warn("cannot read what was shown before", "error", err)
		return nil
	}
	return v
}

func (m memory) write(v map[string]notify.Memory) {
	if m.path == "" {
		return
	}
	err := os.MkdirAll(filepath.Dir(m.path), 0o700)
	var b []byte
	if err == nil {
		b, err = json.Marshal(v)
	}
	if err == nil {
		err = os.WriteFile(m.path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(m.path+".new", m.path)
	}
	if err != nil {
		m.log.Warn("cannot remember what is shown", "error", err)
	}
}
