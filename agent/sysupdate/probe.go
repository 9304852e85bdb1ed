package sysupdate

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/sysmanifest"
)

// commandLineKey and imageKey state the version of the system that the machine runs: on the
// kernel's command line, and in os-release(5).
const (
	commandLineKey = "lull.system="
	imageKey       = "IMAGE_VERSION="
)

// maxFile bounds what is read of a file of the machine, in bytes.
const maxFile = 64 << 10

func (w *World) file(path string) string { return filepath.Join(cmp.Or(w.Machine, "/"), path) }

// identify returns a text that differs in each boot. A container has the kernel's boot
// identifier of its host, and a process 1 of its own.
func (w *World) identify() (string, error) {
	id, err := os.ReadFile(cmp.Or(w.BootID, w.file("proc/sys/kernel/random/boot_id")))
	boot := strings.TrimSpace(string(id))
	if err != nil || w.BootID != "" {
		return boot, err
	}
	stat, err := os.ReadFile(w.file("proc/1/stat"))
	if err != nil {
		return boot, nil // it is hidden: proc(5), hidepid
	}
	// The name, in parentheses, may have spaces. The start is field 22, the name field 2.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return boot, nil
	}
	return boot + bootSeparator + fields[19], nil
}

// bootSeparator is between the two parts of an identity.
const bootSeparator = "+"

// thisBoot reports whether a recorded identity is that of this boot. Earlier versions
// recorded only the kernel's part.
func (s *System) thisBoot(recorded string) bool {
	kernel, _, _ := strings.Cut(s.boot, bootSeparator)
	return recorded == s.boot || recorded == kernel
}

// probe determines the version of the system that the machine runs: by the booted hook of an
// update if it has one, otherwise by the kernel's command line or by os-release. "" means
// that it is not known. st is the update that is staged or booted, or nil.
func (s *System) probe(st *stage) string {
	version, err := "", error(nil)
	if st != nil && st.Keeps && s.Store.HasPackage(st.Update) {
		var found bool
		if version, found, err = s.askHook(st); found {
			return s.known(version, err)
		}
	}
	if _, inside := os.Lstat(s.file("run/systemd/container")); inside != nil { // a container has the command line of its host
		version, err = s.value("proc/cmdline", strings.Fields, commandLineKey)
	}
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		if version != "" || err != nil {
			break
		}
		version, err = s.value(path, func(text string) []string { return strings.Split(text, "\n") }, imageKey)
	}
	return s.known(version, err)
}

// known notes and returns the version that a probe has found.
func (s *System) known(version string, err error) string {
	if err == nil && version != "" && !sysmanifest.ValidVersion(version) {
		err = fmt.Errorf("%.80q is no version of a system", version)
	}
	if err != nil {
		s.Log.Warn("cannot determine which system the machine runs", "error", err)
		version = ""
	}
	s.mu.Lock()
	s.running = version
	s.mu.Unlock()
	return version
}

// askHook runs the booted hook of an update, which prints the version.
func (s *System) askHook(st *stage) (version string, found bool, err error) {
	l, err := s.Store.Launch(st.Update)
	if err != nil || len(l.Hooks[manifest.HookBooted]) == 0 {
		return "", false, err
	}
	text, err := s.runHook(s.ctx, st.Update, manifest.HookBooted, st.Version)
	return strings.TrimSpace(text), true, err
}

// value reads the last KEY=VALUE of a file of the machine, without quotes. A missing file is
// not an error.
func (s *System) value(path string, split func(string) []string, key string) (value string, err error) {
	text, err := os.ReadFile(s.file(path))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	if err != nil {
		return "", err
	}
	for _, word := range split(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(word), key); ok {
			value = strings.Trim(v, `"'`)
		}
	}
	return value, nil
}

// fellBack is the error about a set that the machine was to start with.
func fellBack(version, running string) error {
	return errkind.New(errkind.Failed, "system %s is staged, but the machine has started with system %s", version, running).
		WithHint("lull system rollback drops %s; if the machine starts with it, it takes effect then", version)
}

// follow updates the record after a boot, and returns why the staged set cannot take effect.
func (s *System) follow() error {
	rec := s.record()
	st := rec.Stage
	if st == nil || st.Step != stepStaged {
		st = rec.From
	}
	running := s.probe(st)
	if rec.Left != nil && !s.thisBoot(rec.Left.Boot) && running != rec.Left.Version {
		rec.Left = nil
		if err := s.put(rec); err != nil {
			return err
		}
	}
	switch st = rec.Stage; {
	case rec.Booted != nil && rec.From != nil && running != "" && running != rec.Booted.Version:
		back := *rec.From
		back.Step, back.Boot = stepStaged, s.boot
		if err := s.put(record{Committed: rec.Committed, Stage: &back, Left: rec.Left}); err != nil {
			return err
		}
		return fellBack(back.Version, running)
	case st == nil || st.Step != stepStaged || s.thisBoot(st.Boot):
	case running != "" && running != st.Version:
		return fellBack(st.Version, running)
	default:
		return s.take(rec)
	}
	return nil
}
