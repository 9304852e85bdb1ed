package realinput_test

import (
	"os"
	"path/filepath"
	"testing"

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
	require.Program(t, "mksquashfs")
	w, d := trialWorld(t)
	c := trial{name: "org.example.Pad", label: "Pad", versions: [2]string{"1", "2"}, menu: "org.example.Pad.desktop", keys: "alt+F4"}
	for i, version := range c.versions {
		c.install[i], c.titles[i] = []string{appImage(t, w, version)}, "version-"+version
	}
	c.play(t, w, d)
}
