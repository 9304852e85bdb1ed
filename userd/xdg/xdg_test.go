package xdg

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
)

// home is a user's home with base directories of the host and of a package.
type home struct {
	*testing.T
	dir       string
	own, host Dirs
}

func newHome(t *testing.T) *home {
	dir := t.TempDir()
	h := &home{T: t, dir: dir, own: Own(dir+"/lull/app/1", dir+"/lull/app/common")}
	h.host = Host(dir, dir+"/lull", h.own, nil)
	h.no(os.MkdirAll(dir+"/lull/app/1", 0o700))
	return h
}

func (h *home) no(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *home) write(path, text string) {
	h.Helper()
	h.no(os.MkdirAll(filepath.Dir(path), 0o700))
	h.no(os.WriteFile(path, []byte(text), 0o600))
}

func (h *home) is(path, want string) {
	h.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		h.Errorf("%s has %q (%v), want %q", path, got, err, want)
	}
}

func (h *home) prepare(imports ...string) Result {
	h.Helper()
	r, err := Prepare(h.Context(), h.own, h.host, imports, nil)
	h.no(err)
	h.no(r.Note)
	if !Ready(h.own, h.host) {
		h.Error("it is not ready after Prepare")
	}
	return r
}

// TestDesktopOwn: each file and directory of the desktop is the host's, for reading and for
// writing, whether it was there at the first launch or not.
func TestDesktopOwn(t *testing.T) {
	h := newHome(t)
	for _, s := range manifest.DesktopOwn {
		if !s.Make {
			continue
		}
		h.prepare()
		h.write(h.own.at(s.Path)+"/made", "by the program")
		h.is(h.host.at(s.Path)+"/made", "by the program")
	}
	for _, s := range manifest.DesktopOwn {
		at, in := h.host.at(s.Path), "/file"
		if s.File {
			in = ""
		}
		h.write(at+in, "of the host")
		h.prepare()
		h.is(h.own.at(s.Path)+in, "of the host")
		h.write(h.own.at(s.Path)+in, "of the program")
		h.is(at+in, "of the program")
	}
	for _, p := range strings.Fields(`config/gtk-3.0 config/gtk-4.0 config/dconf config/user-dirs.dirs data/fonts config/fontconfig data/icons
		data/themes config/mimeapps.list data/applications data/user-places.xbel config/kdeglobals config/autostart data/Trash`) {
		if to, err := os.Readlink(h.own.at(p)); err != nil || to != h.host.at(p) {
			t.Errorf("%s leads to %q (error %v), want %q", p, to, err, h.host.at(p))
		}
	}
	// Everything else is the program's.
	h.write(h.host["config"]+"/other/rc", "of the host")
	h.prepare()
	if _, err := os.Lstat(h.own["config"] + "/other"); err == nil {
		t.Error("a directory of another program is in the package's data")
	}
}

// TestOtherKinds: what is in the way of a symlink, or of another kind than usual, stays.
func TestOtherKinds(t *testing.T) {
	h := newHome(t)
	h.write(h.host["config"]+"/fontconfig", "a file")
	h.no(os.MkdirAll(h.host["config"]+"/kdeglobals", 0o700))
	h.prepare()
	for _, p := range []string{"config/fontconfig", "config/kdeglobals"} {
		if _, err := os.Lstat(h.own.at(p)); err == nil {
			t.Errorf("there is %s; want an error", p)
		}
	}
	h.write(h.own["config"]+"/ibus/x", "of the program")
	h.write(h.host["config"]+"/ibus/x", "of the host")
	h.no(os.Symlink("/nowhere", h.own["config"]+"/pulse"))
	h.write(h.host["config"]+"/pulse/cookie", "of the host")
	h.prepare()
	h.is(h.own["config"]+"/ibus/x", "of the program")
	h.is(h.own["config"]+"/pulse/cookie", "of the host")
	// A file is where the desktop has to have a directory: the launch goes on.
	h.no(os.RemoveAll(h.host["config"] + "/gtk-3.0"))
	h.no(os.RemoveAll(h.own["config"] + "/gtk-3.0"))
	h.no(os.RemoveAll(h.host["data"]))
	h.no(os.RemoveAll(h.own["data"] + "/Trash"))
	h.write(h.host["data"], "a file")
	if r, err := Prepare(t.Context(), h.own, h.host, nil, nil); err != nil || r.Note != nil {
		t.Errorf("Prepare with a file in the place of a directory: got error %v and note %v, want neither", err, r.Note)
	}
}

// TestReplacedFile: programs replace files as a whole. The newer file is the host's, and the
// other one is kept.
func TestReplacedFile(t *testing.T) {
	const list = "config/mimeapps.list"
	old := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name, host, program, want, kept string
		programOlder, otherPlace        bool
	}{
		{name: "newer", host: "old", program: "new", want: "new", kept: "old"},
		{name: "older", host: "new", program: "old", programOlder: true, want: "new", kept: "old"},
		{name: "same", host: "same", program: "same", want: "same"},
		{name: "first", program: "new", want: "new"},
		{name: "host has a symlink", host: "old", program: "new", want: "new", kept: "old", otherPlace: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t)
			at, own := h.host.at(list), h.own.at(list)
			if c.host != "" {
				h.write(at, c.host)
			}
			if c.otherPlace {
				h.no(os.MkdirAll(h.dir+"/dotfiles", 0o700))
				h.no(os.Rename(at, h.dir+"/dotfiles/list"))
				h.no(os.Symlink(h.dir+"/dotfiles/list", at))
			}
			h.prepare()
			h.write(own+".new", c.program)
			h.no(os.Rename(own+".new", own))
			switch {
			case c.programOlder:
				h.no(os.Chtimes(own, old, old))
			case c.host != "":
				h.no(os.Chtimes(at, old, old))
			}
			if Ready(h.own, h.host) {
				t.Error("it is ready")
			}
			h.prepare()
			h.is(at, c.want)
			h.is(own, c.want)
			if to, err := os.Readlink(own); err != nil || to != at {
				t.Errorf("%s leads to %q (error %v), want %q", own, to, err, at)
			}
			if kept, err := os.ReadFile(own + Kept); string(kept) != c.kept || (err == nil) != (c.kept != "") {
				t.Errorf("what was kept is %q (error %v), want %q, and no file when that is empty", kept, err, c.kept)
			}
			if c.otherPlace {
				h.is(h.dir+"/dotfiles/list", c.want)
				if fi, err := os.Lstat(at); err != nil {
					t.Error(err)
				} else if fi.Mode()&os.ModeSymlink == 0 {
					t.Errorf("%s of the host has mode %v, want a symlink", at, fi.Mode())
				}
			}
		})
	}
}

// TestImport: the existing profile is copied once, and stays as it is.
func TestImport(t *testing.T) {
	h := newHome(t)
	h.write(h.host["config"]+"/thing/deep/rc", "settings")
	h.no(os.Symlink("deep/rc", h.host["config"]+"/thing/link"))
	h.write(h.host["config"]+"/thingrc", "more settings")
	h.write(h.dir+"/dotfiles/thing/x", "elsewhere")
	h.no(os.MkdirAll(h.host["data"], 0o700))
	h.no(os.Symlink(h.dir+"/dotfiles/thing", h.host["data"]+"/thing"))
	h.no(os.MkdirAll(h.host["state"], 0o700))
	h.no(os.Symlink("loop", h.host["state"]+"/loop"))
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	h.no(os.Chtimes(h.host["config"]+"/thingrc", old, old))
	before, err := os.Stat(h.host["config"] + "/thing/deep/rc")
	h.no(err)
	// The remains of an interrupted launch.
	h.write(h.dir+"/lull/app/1/"+partial+"/config/thing/half", "half")
	imports := []string{"config/thing", "config/thingrc", "config/none", "config/thingrc/below", "data/thing", "state/loop"}
	r := h.prepare(imports...)
	if len(r.Imported) != 3 || len(r.Lost) > 0 {
		t.Errorf("imported %q, lost %v, want 3 imported and none lost", r.Imported, r.Lost)
	}
	h.is(h.own["config"]+"/thing/deep/rc", "settings")
	h.is(h.own["config"]+"/thing/link", "settings")
	h.is(h.own["config"]+"/thingrc", "more settings")
	h.is(h.own["data"]+"/thing/x", "elsewhere")
	if fi, err := os.Stat(h.own["config"] + "/thingrc"); err != nil {
		t.Error(err)
	} else if !fi.ModTime().Equal(old) || fi.Mode().Perm() != 0o600 {
		t.Errorf("the copy of a file has mode %v and time %v, want 0600 and %v", fi.Mode(), fi.ModTime(), old)
	}
	if _, err := os.Lstat(h.own["config"] + "/thing/half"); err == nil {
		t.Error("the remains of an interrupted launch are used")
	}
	after, err := os.Stat(h.host["config"] + "/thing/deep/rc")
	if err != nil {
		t.Error(err)
	} else if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("the existing profile has changed: got the same file %v and time %v, want true and %v", os.SameFile(before, after), after.ModTime(), before.ModTime())
	}
	h.write(h.own["config"]+"/thing/deep/rc", "of the program")
	h.is(h.host["config"]+"/thing/deep/rc", "settings")
	h.write(h.host["config"]+"/late/rc", "later")
	if r := h.prepare("config/thing", "config/late"); len(r.Imported) > 0 {
		t.Errorf("the second launch imported %q, want nothing", r.Imported)
	}
	h.is(h.own["config"]+"/thing/deep/rc", "of the program")
}

// TestImportFails: a profile that cannot be copied leaves nothing, and the error names it.
func TestImportFails(t *testing.T) {
	h := newHome(t)
	h.write(h.host["config"]+"/a/rc", "settings")
	h.write(h.host["config"]+"/a/b/rc", "settings")
	_, err := Prepare(t.Context(), h.own, h.host, []string{"config/a", "config/a/b"}, nil)
	if err == nil || !strings.Contains(err.Error(), "its existing profile cannot be copied: ") {
		t.Errorf("got %v; want an error and %q in the error", err, "its existing profile cannot be copied: ")
	}
	entries, err := os.ReadDir(h.dir + "/lull/app/1")
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	h.prepare("config/a")
	h.is(h.own["config"]+"/a/b/rc", "settings")
}

// TestHost: the variables of the session count, if they have absolute paths outside of the
// packages' data.
func TestHost(t *testing.T) {
	own := Own("/h/lull/a/1", "/h/lull/a/common")
	for _, c := range []struct{ env, config string }{
		{"", "/h/.config"}, {"XDG_CONFIG_HOME=/c/", "/c"}, {"XDG_CONFIG_HOME=c", "/h/.config"}, {"XDG_CONFIG_HOME=", "/h/.config"},
		{"XDG_CONFIG_HOME=" + own["config"] + "/", "/h/.config"}, {"XDG_CONFIG_HOME=/h/lull/b/7/xdg/config", "/h/.config"},
	} {
		if got := Host("/h", "/h/lull", own, []string{c.env}); got["config"] != c.config || got["data"] != "/h/.local/share" || got["state"] != "/h/.local/state" || got["cache"] != "/h/.cache" {
			t.Errorf("Host with %q: got %v, want config %s, and .local/share, .local/state and .cache in /h", c.env, got, c.config)
		}
	}
}
