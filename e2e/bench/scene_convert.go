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
// the tools that unpack, compress and install the same.
func playConvert(tb rig.TB) results {
	myTurn(tb)
	for _, program := range []string{"mksquashfs", "unsquashfs", "zstd", "dpkg", "dpkg-deb"} {
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
	s.write(started, "#!/bin/sh\nexit 0\n", 0o755)
	s.write(filepath.Join(tree, "AppRun"), "#!/bin/sh\nexit 0\n", 0o755)
	s.write(filepath.Join(tree, "toolchain.desktop"), "[Desktop Entry]\nType=Application\nName=Toolchain\nExec=AppRun\nX-AppImage-Version=1\n", 0o644)
	image := s.appImage(tree)

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
	)
	note := fmt.Sprintf("the Go toolchain; AppImage of %.0f MB, .deb of %.0f MB, on %s", s.megabytes(image), s.megabytes(file), fileSystem(s.Store))
	return results{
		"convert":      {Ours: got[0], Theirs: got[1], Notes: []string{note + "; unpacked by a process without privileges, each file compressed by itself"}},
		"install-file": {Ours: got[2], Theirs: got[3], Notes: []string{note + "; copied, converted, compressed and signed in the repository of the machine, verified and moved into the store; flatpak is not compared"}},
	}
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
