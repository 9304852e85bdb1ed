package realinput_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// appImage makes an AppImage of type 2 of Mousepad: an ELF header that ends with itself
// (elf(5)), and a squashfs behind it.
func appImage(t *testing.T, w *rig.World, version string) string {
	t.Helper()
	tree := t.TempDir()
	for _, name := range []string{"mousepad", "libmousepad0"} {
		output(t, "", "dpkg-deb", "-x", newest(t, name), tree)
	}
	put := func(path, text string, perm os.FileMode) {
		if err := os.WriteFile(filepath.Join(tree, path), []byte(text), perm); err != nil {
			t.Fatal(err)
		}
	}
	put("AppRun", "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")\nexport LD_LIBRARY_PATH=$here/usr/lib/x86_64-linux-gnu\n"+
		"exec \"$here/usr/bin/mousepad\" --disable-server \"$here/version-"+version+".txt\"\n", 0o755)
	put("org.example.Pad.desktop", "[Desktop Entry]\nType=Application\nName=Pad\nExec=mousepad %F\nX-AppImage-Version="+version+"\n", 0o644)
	put("version-"+version+".txt", "This is version "+version+"\n", 0o644)
	squashfs, image := w.Path("squashfs-"+version), w.Path("Pad-"+version+".AppImage")
	output(t, "", "mksquashfs", tree, squashfs, "-comp", "zstd", "-root-owned", "-quiet", "-no-progress")
	files, err := os.ReadFile(squashfs)
	if err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01\x00AI\x02")
	header[40] = byte(len(header)) // where its section table would be, which has no entries
	if err := os.WriteFile(image, append(header, files...), 0o755); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestAppImage: the user of an AppImage gets a notice of its update; it is refreshed when its
// window is closed, and reverted.
func TestAppImage(t *testing.T) {
	require.Root(t)
	require.Unified(t)
	require.NotShort(t)
	require.Program(t, "dbus-daemon", "Xvfb", "dunst", "openbox", "xdotool", "setpriv", "apt-get", "dpkg-deb", "mksquashfs", "import")
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.Configure("policy.yaml", policy)
	d := w.StartDesktop()
	w.User.Env = append(w.User.Env, "GSETTINGS_BACKEND=memory", "NO_AT_BRIDGE=1")
	w.User.Start("openbox", "--sm-disable")
	api := w.Bus.Watch()
	w.StartAgent()
	w.StartHelper()
	stop := w.Tick(200 * time.Millisecond) // a window has no bus signal for its appearance
	defer stop()
	const name = "org.example.Pad"
	one, two := appImage(t, w, "1"), appImage(t, w, "2")

	open := func(version string) (p *rig.Proc, window string) {
		t.Helper()
		p = w.User.StartLull(nil, "run", name)
		w.Until("the window shows version "+version, limit, func() (bool, string) {
			if p.Ended() {
				t.Fatalf("it has ended:\n%s", p.Log())
			}
			window, _, _ = strings.Cut(w.User.Run("xdotool", "search", "--onlyvisible", "--name", "version-"+version).Stdout, "\n")
			return window != "", p.Log()
		})
		if dir := os.Getenv("LULL_PICTURES"); dir != "" {
			w.Until("a picture", limit, func() (bool, string) {
				r := w.User.Run("import", "-window", "root", w.User.Home+"/picture.png")
				return r.Code == 0, r.Stderr
			})
			output(t, "", "cp", w.User.Home+"/picture.png", filepath.Join(dir, "appimage-"+version+".png"))
		}
		return p, window
	}
	shut := func(p *rig.Proc, window string) {
		t.Helper()
		w.Until("it has ended", limit, func() (bool, string) {
			w.User.Run("xdotool", "windowactivate", window, "key", "alt+F4") // one is lost until the window is ready
			return p.Ended(), p.Log()
		})
		if _, err := p.Wait(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
	}
	w.MustLull("install", one)
	menu := filepath.Join(w.Store, "exports/share/applications", name+".desktop")
	if b, err := os.ReadFile(menu); err != nil || !strings.Contains(string(b), "\nName=Pad\n") {
		t.Errorf("the menu entry %s: got %q, %v, want the one of Pad", menu, b, err)
	}
	p, window := open("1")
	if r := w.Lull("install", two); r.Code != 75 {
		t.Errorf("a refresh while it runs: got %v, want exit status 75", r)
	}
	notice := func(words string) {
		t.Helper()
		w.Until("one notice says "+words, limit, func() (bool, string) {
			live := d.Live()
			return len(live) == 1 && strings.Contains(live[0].Summary+live[0].Body, words), d.String()
		})
	}
	notice("Pad")
	shut(p, window)
	w.Until("it is refreshed", limit, func() (bool, string) {
		o, _ := api.Package(name)
		return o.Str("Version") == "2", o.Str("Version")
	})
	notice("was updated")
	shut(open("2"))
	w.MustLull("revert", name)
	shut(open("1"))
	w.MustLull("remove", name)
	w.MustLull("gc")
	if _, err := os.Stat(menu); err == nil {
		t.Errorf("after the removal: got %s, want no menu entry", menu)
	}
}
