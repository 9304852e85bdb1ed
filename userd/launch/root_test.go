package launch

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/e2e/require"
)

// shell is /bin/sh of a runtime: it carries out pairs of words, and needs no library.
const shell = `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
int main(int argc, char **argv)
{
	for (int i = 2; i + 1 < argc; i += 2) { /* behind the script */
		char line[4096] = "", *what = argv[i], *path = argv[i + 1];
		if (!strcmp(what, "read")) {
			FILE *f = fopen(path, "r");
			if (f && !fgets(line, sizeof(line), f))
				strcpy(line, "empty");
		} else if (!strcmp(what, "write")) {
			FILE *f = fopen(path, "w");
			if (f && fputs("written\n", f) >= 0 && !fclose(f))
				strcpy(line, "written");
		} else if (!strcmp(what, "link")) {
			if (readlink(path, line, sizeof(line) - 1) < 0)
				line[0] = 0;
		} else if (!strcmp(what, "connect")) {
			struct sockaddr_un a = { .sun_family = AF_UNIX };
			strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
			if (!connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)))
				strcpy(line, "connected");
		} else if (!strcmp(what, "show")) {
			if (!strcmp(path, "cwd"))
				getcwd(line, sizeof(line));
			else
				sprintf(line, "%d %d", geteuid(), getegid());
		} else if (!strcmp(what, "env")) {
			if (getenv(path))
				strncpy(line, getenv(path), sizeof(line) - 1);
		} else if (!strcmp(what, "run")) {
			fflush(stdout);
			if (!fork())
				execl(path, path, "-", "show", "id", (char *)0);
			wait(0);
			continue;
		} else if (!strcmp(what, "wait")) {
			puts("waits");
			fflush(stdout);
			getchar();
			continue;
		}
		line[strcspn(line, "\n")] = 0;
		puts(line[0] ? line : "-");
	}
	return 0;
}
`

// addRuntime makes a package with a system of its own, of which the only program is shell.
func (w *world) addRuntime() digest.Digest {
	w.Helper()
	pkg := w.addSub("org.lull-test.runtime", nil)
	dir := filepath.Join(w.root, "packages", pkg.String())
	for path, text := range map[string]string{
		"usr/bin/only-here": "a program of the runtime\n", "etc/own": "etc of the runtime\n", "etc/passwd": "none\n", "etc/resolv.conf": "none\n",
		"usr/share/doc/x": "", "srv/x": "of the runtime\n", "var/own": "", "usr/share/locale/own": "own\n",
	} {
		w.no(os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		w.no(os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	w.no(os.Mkdir(filepath.Join(dir, "tmp"), 0o755))
	w.no(os.RemoveAll(filepath.Join(dir, "bin")))
	w.no(os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	source := filepath.Join(w.TempDir(), "x.c")
	w.no(os.WriteFile(source, []byte(shell), 0o644))
	if out, err := exec.Command("cc", "-static", "-w", "-o", filepath.Join(dir, "usr/bin/sh"), source).CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	return pkg
}

// TestRoot: a program finds the files of a runtime at /, and those of the host where its user,
// his session and the machine are; the kernel and /proc show the files of the packages.
func TestRoot(t *testing.T) {
	require.Program(t, "cc")
	launcher := buildLayout(t)
	socket := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, who := range []string{"this user", "nobody"} {
		t.Run(who, func(t *testing.T) {
			w := newWorld(t)
			w.runtime = w.addRuntime()
			w.layout = map[string]string{"/opt/Lull/deep": "bin", "/usr/share/lull-test.root": "bin", "/usr/share/locale": "share", "/etc/lull-test.root": "share"}
			w.untracked()
			dir := filepath.Join(w.root, "packages", w.install(1, 0, false).String())
			runtime := filepath.Join(w.root, "packages", w.runtime.String())
			w.no(os.MkdirAll(filepath.Join(dir, "share"), 0o755))
			w.no(os.WriteFile(filepath.Join(dir, "share/text"), []byte("from the package\n"), 0o644))
			written := filepath.Join(w.home, "written")
			first := func(path string) string {
				b, err := os.ReadFile(path)
				if err != nil {
					return "-"
				}
				line, _, _ := strings.Cut(string(b), "\n")
				return line
			}
			zone, err := os.Readlink("/etc/localtime")
			if err != nil {
				zone = "/.host/etc/localtime"
			} else if _, err := os.Stat(zones); err != nil {
				zone = "/.host/etc/localtime"
			}
			uid := itoa(os.Getuid()) + " " + itoa(os.Getgid())
			cmd := w.command(app)
			cmd.Path, cmd.Dir = launcher, w.home
			if who == "nobody" {
				if os.Getuid() != 0 {
					t.Skip("needs root, to be another user")
				}
				uid = "65534 65534"
				open(t, w.root)
				open(t, filepath.Dir(socket))
				w.no(os.Chown(socket, 65534, 65534))
				w.no(os.Chown(w.home, 65534, 65534))
				w.no(os.Chmod(filepath.Dir(launcher), 0o755))
				open(t, launcher)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			// A set-user-id program of the machine, which would read /etc of the runtime.
			// /tmp may be mounted without such programs.
			suid, err := os.MkdirTemp("/var/tmp", "lull-test-")
			w.no(err)
			t.Cleanup(func() { os.RemoveAll(suid) })
			w.no(os.Chmod(suid, 0o755))
			privileged := filepath.Join(suid, "privileged")
			b, err := os.ReadFile(filepath.Join(runtime, "usr/bin/sh"))
			w.no(err)
			w.no(os.WriteFile(privileged, b, 0o755))
			w.no(unix.Chmod(privileged, 0o4755))
			plain := exec.Command(privileged, "-", "show", "id")
			plain.SysProcAttr = cmd.SysProcAttr
			if out, err := plain.Output(); err != nil || strings.Fields(string(out))[0] != itoa(os.Getuid()) {
				t.Fatalf("outside of the runtime a set-user-id program has %q, %v; want user %d", out, err, os.Getuid())
			}
			var want []string
			for _, c := range [][3]string{
				{"read", "/usr/bin/only-here", "a program of the runtime"}, {"read", "/usr/bin/env", "-"}, {"read", "/bin/only-here", "a program of the runtime"},
				{"read", "/etc/own", "etc of the runtime"}, {"read", "/etc/passwd", first("/etc/passwd")}, {"read", "/etc/resolv.conf", first("/etc/resolv.conf")},
				{"read", "/etc/shells", "-"}, {"link", "/etc/localtime", zone}, {"read", "/srv/x", "of the runtime"}, {"read", "/var/own", "-"},
				{"read", "/.host/etc/passwd", first("/etc/passwd")}, {"read", "/proc/self/comm", "app"},
				{"read", "/opt/Lull/deep/app", "#!/bin/sh"}, {"read", "/usr/share/lull-test.root/app", "#!/bin/sh"}, {"read", "/usr/share/locale/text", "from the package"},
				{"read", "/etc/lull-test.root/text", "from the package"},
				{"read", "/usr/share/locale/own", "own"}, {"read", dir + "/bin/app", "#!/bin/sh"},
				{"write", written, "written"}, {"write", "/x", "-"}, {"write", "/usr/x", "-"}, {"write", "/etc/x", "-"},
				{"connect", socket, "connected"}, {"show", "cwd", w.home}, {"show", "id", uid}, {"run", privileged, uid}, {"wait", "", "waits"},
			} {
				cmd.Args = append(cmd.Args, c[0], c[1])
				want = append(want, c[2])
			}
			if who == "this user" && os.Getuid() == 0 { // root writes everywhere but to read-only mounts
				for i, word := range cmd.Args {
					if word == "/usr/x" {
						cmd.Args[i] = "/y"
					}
				}
			}
			in, err := cmd.StdinPipe()
			w.no(err)
			var out, stderr strings.Builder
			reader, writer, err := os.Pipe()
			w.no(err)
			defer reader.Close()
			cmd.Stdout, cmd.Stderr = writer, &stderr
			w.no(cmd.Start())
			writer.Close()
			b = make([]byte, 4096)
			for !strings.HasSuffix(out.String(), "waits\n") {
				n, err := reader.Read(b)
				if out.Write(b[:n]); err != nil {
					break
				}
			}
			if got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"); len(got) != len(want) {
				t.Errorf("got %d lines, want %d:\n%s%s", len(got), len(want), out.String(), stderr.String())
			} else {
				for i := range got {
					if got[i] != want[i] {
						t.Errorf("%s: got %q, want %q", cmd.Args[len(cmd.Args)-2*len(want)+2*i:][:2], got[i], want[i])
					}
				}
			}
			inodes, err := vacancy.FilesOf(cmd.Process.Pid)
			w.no(err)
			var st unix.Stat_t
			w.no(unix.Stat(filepath.Join(runtime, "usr/bin/sh"), &st))
			found := false
			for in := range inodes {
				found = found || in.Ino == st.Ino
			}
			if !found {
				t.Errorf("the process has %v, and not the inode %d", inodes, st.Ino)
			}
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v: %s", err, stderr.String())
			}
			if got := first(written); got != "written" {
				t.Errorf("the file in the home has %q, want %q", got, "written")
			}
		})
	}
}

// TestRootShowsHost: programs in a runtime find the themes, locales and fonts that the machine has
// and the runtime lacks, and the driver of NVIDIA with its configuration, laid out as on Debian.
func TestRootShowsHost(t *testing.T) {
	require.Root(t)
	require.Program(t, "cc")
	launcher := buildLayout(t)
	w := newWorld(t)
	w.runtime = w.addRuntime()
	runtime := filepath.Join(w.root, "packages", w.runtime.String())
	files := func(root string, list map[string]string) {
		t.Helper()
		for path, text := range list {
			at := filepath.Join(root, path)
			w.no(os.MkdirAll(filepath.Dir(at), 0o755))
			if target, link := strings.CutPrefix(text, "-> "); link {
				w.no(os.Symlink(target, at))
			} else {
				w.no(os.WriteFile(at, []byte(text), 0o644))
			}
		}
	}
	files(runtime, map[string]string{
		"usr/share/icons/hicolor/index.theme": "runtime", "usr/share/icons/Lull-Both/index.theme": "runtime",
		"usr/lib/locale/en_US.utf8/LC_TIME": "runtime", "usr/share/vulkan/icd.d/mesa.json": "runtime", "usr/lib64/gbm/dri_gbm.so": "runtime",
	})
	host := t.TempDir() // shown over the files of this machine
	const lib, version = "usr/lib/x86_64-linux-gnu/", "550.163.01"
	files(host, map[string]string{
		"usr/share/icons/Lull-Icons/index.theme": "host", "usr/share/icons/Lull-Both/index.theme": "host", "usr/share/themes/Lull-Theme/gtk-3.0/gtk.css": "host",
		"usr/lib/locale/lull_DE.utf8/LC_TIME": "host", "usr/lib/locale/en_US.utf8/LC_TIME": "host", "usr/share/fonts/lull/font.ttf": "host",
		lib + "libGLX_nvidia.so.0":                         "-> /etc/alternatives/lull--libGLX_nvidia.so.0",
		"etc/alternatives/lull--libGLX_nvidia.so.0":        "-> /" + lib + "nvidia/current/libGLX_nvidia.so." + version,
		lib + "nvidia/current/libGLX_nvidia.so." + version: "glx", lib + "libnvidia-glcore.so." + version: "core", lib + "libnvidia-gone.so.1": "-> none",
		lib + "libcuda.so.1": "cuda", lib + "gbm/nvidia-drm_gbm.so": "gbm", lib + "vdpau/libvdpau_nvidia.so.1": "vdpau",
		"usr/share/vulkan/icd.d/nvidia_icd.json": "icd", "usr/share/glvnd/egl_vendor.d/10_nvidia.json": "egl", "etc/OpenCL/vendors/nvidia.icd": "opencl",
	})
	w.untracked()
	w.install(1, 0, false)
	for _, who := range []string{"root", "nobody"} {
		t.Run(who, func(t *testing.T) {
			w.no(os.RemoveAll(w.home))
			w.no(os.Mkdir(w.home, 0o755))
			cmd := w.command(app)
			cmd.Dir = w.home
			become := ""
			if who == "nobody" {
				open(t, w.root)
				w.no(os.Chown(w.home, 65534, 65534))
				w.no(os.Chmod(filepath.Dir(launcher), 0o755))
				open(t, launcher)
				become = "setpriv --reuid 65534 --regid 65534 --clear-groups "
			}
			open(t, host)
			script := "for d in usr etc; do mount -t overlay -o lowerdir=" + host + "/$d:/$d lull-test /$d; done && exec " + become + `"$0" "$@"`
			cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script, launcher}, cmd.Args[1:]...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // Go makes its mounts private
			var want []string
			for _, c := range [][3]string{
				{"read", "/usr/share/icons/Lull-Icons/index.theme", "host"}, {"read", "/usr/share/icons/Lull-Both/index.theme", "runtime"},
				{"read", "/usr/share/icons/hicolor/index.theme", "runtime"}, {"read", "/usr/share/themes/Lull-Theme/gtk-3.0/gtk.css", "host"},
				{"read", "/usr/lib/locale/lull_DE.utf8/LC_TIME", "host"}, {"read", "/usr/lib/locale/en_US.utf8/LC_TIME", "runtime"},
				{"read", "/usr/share/fonts/lull/font.ttf", "host"},
				{"read", "/.driver/0/libGLX_nvidia.so.0", "glx"}, {"read", "/.driver/0/libnvidia-glcore.so." + version, "core"}, {"read", "/.driver/0/libcuda.so.1", "cuda"},
				{"read", "/.driver/0/libvdpau_nvidia.so.1", "vdpau"}, {"read", "/.driver/0/gbm/nvidia-drm_gbm.so", "gbm"}, {"link", "/.driver/0/libnvidia-gone.so.1", "-"},
				{"link", "/.driver/0/libc.so.6", "-"}, {"env", "LD_LIBRARY_PATH", "/.driver/0"}, {"env", "GBM_BACKENDS_PATH", "/.driver/0/gbm:/usr/lib64/gbm"},
				{"read", "/usr/share/vulkan/icd.d/nvidia_icd.json", "icd"}, {"read", "/usr/share/vulkan/icd.d/mesa.json", "runtime"},
				{"read", "/usr/share/glvnd/egl_vendor.d/10_nvidia.json", "egl"}, {"read", "/etc/OpenCL/vendors/nvidia.icd", "opencl"}, {"read", "/etc/own", "etc of the runtime"},
			} {
				cmd.Args = append(cmd.Args, c[0], c[1])
				want = append(want, c[2])
			}
			r := w.end(cmd)
			got := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
			if r.code != 0 || len(got) != len(want) {
				t.Fatalf("status %d: got %d lines, want %d: %s%s", r.code, len(got), len(want), r.out, r.stderr)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Errorf("%s: got %q, want %q", cmd.Args[len(cmd.Args)-2*len(want)+2*i:][:2], got[i], want[i])
				}
			}
		})
	}
}

// TestRootOfItself: a package may be its own runtime, and its programs are at their paths.
func TestRootOfItself(t *testing.T) {
	require.Program(t, "cc")
	launcher := buildLayout(t)
	w := newWorld(t)
	w.untracked()
	w.install(1, 0, false)
	runtime := w.addRuntime()
	l := &manifest.Launch{Name: app, Version: "2", Root: manifest.RootSelf, Layout: map[string]string{"/usr/share/lull-test.root": "usr/share/locale"}, Apps: []manifest.App{{Name: app, Command: []string{"bin/sh", "-"}}}}
	b, err := l.Encode()
	w.no(err)
	dir := filepath.Join(w.root, "packages", runtime.String())
	w.no(os.WriteFile(filepath.Join(dir, manifest.Reserved, "launch.json"), b, 0o644))
	// A package that is tried has symlinks to the files of its source.
	source := t.TempDir()
	for _, name := range []string{"usr", "etc"} {
		w.no(os.Rename(filepath.Join(dir, name), filepath.Join(source, name)))
		w.no(os.Symlink(filepath.Join(source, name), filepath.Join(dir, name)))
	}
	cmd := w.command("--package", runtime.String(), "--folder", t.TempDir(), app, "link", "/proc/self/exe", "read", "/etc/own", "read", "/usr/bin/env", "read", "/usr/share/lull-test.root/own")
	cmd.Path = launcher
	if r := w.end(cmd); r.code != 0 || r.out != "/usr/bin/sh\netc of the runtime\n-\nown\n" {
		t.Errorf("status %d: got %q%s, want %q", r.code, r.out, r.stderr, "/usr/bin/sh\netc of the runtime\n-\nown\n")
	}
}
