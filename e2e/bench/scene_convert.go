package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// playConvert makes packages of an AppImage and of a .deb with the Go toolchain, beside
// the tools that unpack, compress and install the same. The program that is started is static
// and ends at once.
func playConvert(tb rig.TB) results {
	myTurn(tb)
	for _, program := range []string{"mksquashfs", "unsquashfs", "zstd", "dpkg", "dpkg-deb", "flatpak"} {
		if _, err := require.Find(program); err != nil {
			tb.Fatalf("it needs %s: %v", program, err)
		}
	}
	s := setStage(tb, rig.Options{})
	tree := s.Path("image")
	goroot := strings.TrimSpace(s.command("go", "env", "GOROOT"))
	if err := os.MkdirAll(filepath.Join(tree, "usr/bin"), 0o755); err != nil {
		s.Fatalf("%v", err)
	}
	s.command("cp", "-a", goroot, filepath.Join(tree, "usr/go"))
	s.command("find", tree, "-name", "*key*.pem", "-delete") // private keys are not published
	started := filepath.Join(tree, "usr/bin/started")
	s.command("cp", filepath.Join(programs(tb), "empty"), started)
	s.write(filepath.Join(tree, "AppRun"), "#!/bin/sh\nexit 0\n", 0o755)
	s.write(filepath.Join(tree, "toolchain.desktop"), "[Desktop Entry]\nType=Application\nName=Toolchain\nExec=AppRun\nX-AppImage-Version=1\n", 0o644)
	image := s.appImage(tree)
	bundle, fenv := s.flatpakBundle(tree, "/app/usr/bin/started")

	s.write(filepath.Join(tree, "DEBIAN/control"), "Package: toolchain\nVersion: 1\nArchitecture: all\nMaintainer: Bench <bench@example.org>\nDescription: Measured\n", 0o644)
	file := s.Path("toolchain_1_all.deb")
	s.command("dpkg-deb", "--root-owner-group", "-Zzstd", "--build", tree, file)
	root := s.Path("dpkg")
	s.warm(s.Dir)

	round := 0
	got := inTurns(1, 3,
		func() float64 { // 0: publish into an empty repository
			round++
			repo := s.Path(fmt.Sprintf("repo-%d", round))
			s.MustLull("repo", "init", repo)
			defer s.command("rm", "-rf", repo)
			return s.timed(func() { s.MustLull("publish", image, "--repo", repo); s.flush() })
		},
		func() float64 { // 1
			out := s.Path("unsquashed")
			defer s.command("rm", "-rf", out, out+".tar.zst")
			return s.timed(func() {
				s.command("unsquashfs", "-quiet", "-no-progress", "-offset", fmt.Sprint(headerSize), "-dest", out, image)
				s.command("sh", "-c", `tar -C "$0" -cf - . | zstd -q -T2 -o "$0.tar.zst"`, out)
				s.flush()
			})
		},
		func() float64 { // 2: a file installed and its program started
			took := s.timed(func() {
				s.MustLull("install", file)
				s.command(s.wrapper("toolchain"))
			})
			s.MustLull("remove", "--purge", "toolchain")
			s.MustLull("gc")
			return took
		},
		func() float64 { // 3
			for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					s.Fatalf("%v", err)
				}
			}
			s.write(filepath.Join(root, "var/lib/dpkg/status"), "", 0o644)
			defer s.command("rm", "-rf", root)
			return s.timed(func() {
				s.command("dpkg", "--root="+root, "--log="+root+"/log", "--force-depends", "--install", file)
				s.command(filepath.Join(root, "usr/bin/started"))
			})
		},
		func() float64 { // 4: its runtime is there
			defer s.commandWith(fenv, "flatpak", "--user", "uninstall", "--noninteractive", flatpakBundled)
			return s.timed(func() {
				s.commandWith(fenv, "flatpak", "--user", "install", "--noninteractive", "--no-deps", "--no-related", "--bundle", bundle)
				s.commandWith(fenv, "flatpak", "--user", "run", flatpakBundled)
			})
		},
	)
	note := fmt.Sprintf("the Go toolchain; AppImage of %.0f MB, .deb of %.0f MB, on %s", s.megabytes(image), s.megabytes(file), fileSystem(s.Store))
	ours, dpkg, flatpak := median(got[2]), median(got[3]), median(got[4])
	return results{
		"convert": {Ours: got[0], Theirs: got[1], Notes: []string{note + "; unpacked by a process without privileges, each file compressed by itself"}},
		"install-file": {Ours: got[2], Theirs: got[3], Notes: []string{
			note + "; copied, converted, compressed and signed in the repository of the machine, verified and moved into the store",
			fmt.Sprintf("dpkg --install and the program: %.0f ms, ours is %.2f× (%s)", dpkg, ours/dpkg, firstLine("dpkg", "--version")),
			fmt.Sprintf("flatpak install --bundle of the same tree, %.0f MB, for a user who has the runtime, and flatpak run: %.0f ms, ours is %.2f× (%s)", s.megabytes(bundle), flatpak, ours/flatpak, firstLine("flatpak", "--version")),
		}},
	}
}

// flatpakBundled is the name of the flatpak of flatpakBundle.
const flatpakBundled = "org.lull.Toolchain"

// flatpakBundle makes a bundle of a tree, and an installation of flatpak's that has the runtime
// of it alone. env leads to that installation.
func (s *stage) flatpakBundle(tree, command string) (bundle string, env []string) {
	dir, home := s.Path("flatpak"), s.Path("flatpak-home")
	bundle = filepath.Join(dir, "toolchain.flatpak")
	for _, d := range []string{"runtime/usr/bin", "runtime/files", "app/export"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			s.Fatalf("%v", err)
		}
	}
	for path, text := range flatpakMetadata(flatpakBundled, command) {
		s.write(filepath.Join(dir, path), text, 0o644)
	}
	s.write(filepath.Join(home, "run", "README"), "of flatpak run\n", 0o600)
	env = []string{"HOME=" + home, "XDG_DATA_HOME=" + home + "/share", "XDG_CACHE_HOME=" + home + "/cache", "XDG_RUNTIME_DIR=" + home + "/run", "DBUS_SESSION_BUS_ADDRESS="}
	s.command("cp", "-al", tree, filepath.Join(dir, "app/files"))
	repo := filepath.Join(dir, "repo")
	flatpak := func(argv ...string) { s.commandWith(env, append([]string{"flatpak"}, argv...)...) }
	flatpak("build-export", "--runtime", "--disable-sandbox", repo, filepath.Join(dir, "runtime"), "stable")
	flatpak("build-export", "--disable-sandbox", repo, filepath.Join(dir, "app"), "stable")
	flatpak("build-bundle", repo, bundle, flatpakBundled, "stable")
	flatpak("--user", "remote-add", "--no-gpg-verify", "bench", repo)
	flatpak("--user", "install", "--noninteractive", "bench", flatpakRuntime)
	return bundle, env
}

func (s *stage) write(path, text string, perm os.FileMode) {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), perm)
	}
	if err != nil {
		s.Fatalf("%v", err)
	}
}

func (s *stage) megabytes(file string) float64 {
	fi, err := os.Stat(file)
	if err != nil {
		s.Fatalf("%v", err)
	}
	return float64(fi.Size()) / 1e6
}

// headerSize is the size of the ELF header of an AppImage that is made here.
const headerSize = 64

// appImage makes an AppImage of type 2 of a tree, which is not to be run: an ELF header
// that ends with itself (elf(5)), and a squashfs behind it.
func (s *stage) appImage(tree string) string {
	image, squashfs := s.Path("Toolchain-1.AppImage"), s.Path("squashfs")
	s.command("mksquashfs", tree, squashfs, "-comp", "zstd", "-root-owned", "-quiet", "-no-progress")
	header := make([]byte, headerSize)
	copy(header, "\x7fELF\x02\x01\x01\x00AI\x02")
	header[40] = headerSize // where its section table would be, which has no entries
	s.write(image, string(header), 0o755)
	s.command("sh", "-c", `cat "$0" >>"$1"`, squashfs, image)
	if err := os.Remove(squashfs); err != nil {
		s.Fatalf("%v", err)
	}
	return image
}
