package launch

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/vacancy"
	"github.com/lull/lull/e2e/require"
)

func TestLayoutOperations(t *testing.T) {
	dir := t.TempDir()
	host, pkg := filepath.Join(dir, "host"), filepath.Join(dir, "pkg")
	for _, d := range []string{host + "/opt/mounted/deep", host + "/there", host + "/opt/inner", pkg + "/part"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{pkg + "/file", host + "/conf", host + "/opt/inner/text"} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("opt", host+"/link"), os.Symlink("inner", host+"/opt/line")); err != nil {
		t.Fatal(err)
	}
	mounted := []string{"/", host, host + "/opt", host + "/opt/mounted", host + "/opt/mounted/deep", host + "/optional"}
	for what, c := range map[string]struct {
		layout map[string]string
		want   string
	}{
		"directory that is there": {map[string]string{host + "/there": "part"}, "bind PKG/part HOST/there"},
		"directory that is missing": {map[string]string{host + "/there/a/b": "part"},
			"scratch PKG/.lull dir 0 dir 0/a dir 0/a/b merge 0 HOST/there done PKG/.lull bind PKG/part HOST/there/a/b"},
		"file that is missing": {map[string]string{host + "/there/a/f": "file"},
			"scratch PKG/.lull dir 0 dir 0/a file 0/a/f merge 0 HOST/there done PKG/.lull bind PKG/file HOST/there/a/f"},
		"mounts, and a symlink": {map[string]string{host + "/link/app": "part", host + "/opt/inner/app": "part"},
			"scratch PKG/.lull dir 0 dir 0/app dir 0/inner dir 0/inner/app file 0/inner/text bind HOST/opt/inner/text 0/inner/text " +
				"link inner 0/line dir 0/mounted bind HOST/opt/mounted 0/mounted bind 0 HOST/opt protect HOST/opt " +
				"done PKG/.lull bind PKG/part HOST/link/app bind PKG/part HOST/opt/inner/app"},
		"directory where a file is": {map[string]string{host + "/conf": "part"}, "its layout has a dir at HOST/conf, where this machine has none"},
		"below a file":              {map[string]string{host + "/conf/x": "part"}, "its layout cannot be mounted: stat HOST/conf/x: not a directory"},
		"part that is missing":      {map[string]string{host + "/there": "none"}, "its installation is damaged: stat PKG/none: no such file or directory"},
	} {
		list, err := layoutOperations(c.layout, pkg, mounted)
		got := strings.Join(list, " ")
		if err != nil {
			got = err.Error()
		}
		if got = strings.NewReplacer(host, "HOST", pkg, "PKG").Replace(got); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", what, got, c.want)
		}
	}
	for i := range maxEntries + 1 {
		if err := os.WriteFile(filepath.Join(host, "there", itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const want = "more than 3000 files are in it"
	if _, err := layoutOperations(map[string]string{host + "/there/a": "part"}, pkg, []string{host + "/there/0"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a large directory with a mount: got error %v, want %q", err, want)
	}
	if got := mountPoints("22 1 0:1 / /a\\040b rw - x x rw\n23 22 0:2 / / rw - x x rw\n24 22 0:2 / / rw - x x rw\nx\n"); !slices.Equal(got, []string{"/", "/a b"}) {
		t.Errorf("got %q, want %v", got, []string{"/", "/a b"})
	}
}

// TestMergesAroundMounts: below a directory that merges and has a mount in it, the directories without
// one merge; it is put together of its entries only if the package adds one.
func TestMergesAroundMounts(t *testing.T) {
	const locale = "/usr/share/locale"
	dir := t.TempDir()
	host, part := filepath.Join(dir, "host"), filepath.Join(dir, "part")
	for _, d := range []string{host + locale + "/de/LC_MESSAGES", host + locale + "/fr", part + "/de/LC_MESSAGES"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(part+"/de/LC_MESSAGES/thing.mo", nil, 0o644), os.Symlink("none", part+"/dangling")); err != nil {
		t.Fatal(err)
	}
	shown := func(mounted string) string {
		t.Helper()
		tree := &tree{dir: host, shown: "/", mounted: []string{"/", mounted}}
		merges, made, binds, err := tree.show(map[string]string{locale: part})
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(strings.Join(slices.Concat(merges, made, binds), " "), part, "PART")
	}
	for mounted, want := range map[string]string{
		locale:                     "merge PART /usr/share/locale",
		locale + "/fr":             "merge PART/de /usr/share/locale/de",
		locale + "/de/LC_MESSAGES": "merge PART/de/LC_MESSAGES /usr/share/locale/de/LC_MESSAGES",
		locale + "/de/LC_MESSAGES/x": "dir 0 file 0/thing.mo bind 0 /usr/share/locale/de/LC_MESSAGES protect /usr/share/locale/de/LC_MESSAGES " +
			"bind PART/de/LC_MESSAGES/thing.mo /usr/share/locale/de/LC_MESSAGES/thing.mo",
	} {
		if got := shown(mounted); got != want {
			t.Errorf("a mount at %s:\ngot  %s\nwant %s", mounted, got, want)
		}
	}
	if err := os.Mkdir(part+"/nds", 0o755); err != nil {
		t.Fatal(err)
	}
	const want = "merge PART/de /usr/share/locale/de dir 0 dir 0/nds dir 0/de bind /usr/share/locale/de 0/de dir 0/fr bind /usr/share/locale/fr 0/fr " +
		"bind 0 /usr/share/locale protect /usr/share/locale bind PART/nds /usr/share/locale/nds"
	if got := shown(locale + "/fr"); got != want {
		t.Errorf("a language that the machine lacks:\ngot  %s\nwant %s", got, want)
	}
}

// TestLayoutOfConfiguration: of the package's configuration programs find what the machine lacks, and
// links to that of the machine.
func TestLayoutOfConfiguration(t *testing.T) {
	dir := t.TempDir()
	host, part := filepath.Join(dir, "host"), filepath.Join(dir, "part")
	for path, text := range map[string]string{
		host + "/etc/passwd": "", host + "/etc/thing/own": "", host + "/etc/thing/both": "", host + "/etc/thing/deep/own": "",
		part + "/both": "", part + "/new": "", part + "/deep/new/file": "", part + "/own/file": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../zone", host+"/etc/localtime"); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"/etc/other": "dir 0 dir 0/other dir 0/.lull bind /etc 0/.lull link ../zone 0/localtime link /etc/.lull/passwd 0/passwd link /etc/.lull/thing 0/thing " +
			"bind 0 /etc protect /etc bind PART /etc/other",
		"/etc/thing": "dir 0 dir 0/deep dir 0/deep/new file 0/new dir 0/.lull bind /etc/thing 0/.lull link /etc/thing/.lull/both 0/both " +
			"link /etc/thing/.lull/deep/own 0/deep/own link /etc/thing/.lull/own 0/own bind 0 /etc/thing protect /etc/thing " +
			"bind PART/deep/new /etc/thing/deep/new bind PART/new /etc/thing/new",
	} {
		tree := &tree{dir: host, shown: "/", mounted: []string{"/", "/etc/passwd"}}
		merges, made, binds, err := tree.show(map[string]string{at: part})
		if got := strings.ReplaceAll(strings.Join(slices.Concat(merges, made, binds), " "), part, "PART"); err != nil || got != want {
			t.Errorf("%s: error %v\ngot  %s\nwant %s", at, err, got, want)
		}
	}
}

// buildLayout builds lull-layout into a directory that has the launcher, too, and returns the
// launcher.
func buildLayout(t *testing.T) string {
	t.Helper()
	require.Program(t, "cc")
	dir := t.TempDir()
	_, self, _, _ := runtime.Caller(0)
	build := filepath.Join(filepath.Dir(self), "../../cmd/lull-layout/build.sh")
	if text, err := exec.Command("sh", build, filepath.Join(dir, layoutProgram)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	test, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	launcher := filepath.Join(dir, "lull-run")
	if err := os.Link(test, launcher); err != nil {
		b, rerr := os.ReadFile(test)
		if rerr != nil || os.WriteFile(launcher, b, 0o755) != nil {
			t.Fatal(err, rerr)
		}
	}
	return launcher
}

// TestLayout: a program finds parts of its package where it was compiled to look, with the
// same user, process and inodes, and the host has nothing of that.
func TestLayout(t *testing.T) {
	require.Program(t, "cc")
	launcher := buildLayout(t)
	// The kernel lets a user make no overlay over a directory with a mount in it.
	const mounted, inLocale = "nobody and a mount below /usr/share", "nobody and a mount below /usr/share/locale"
	for _, who := range []string{"this user", "nobody", mounted, inLocale} {
		t.Run(who, func(t *testing.T) {
			point := map[string]string{mounted: "/usr/share/doc", inLocale: "/usr/share/locale/de"}[who]
			w := newWorld(t)
			w.layout = map[string]string{"/opt/lull-test.layout": "opt", "/usr/share/locale": "share", "/usr/share/lull-test.layout/deep": "share", "/usr/lib/lull-test.layout/line": "share/text",
				"/etc/lull-test.layout": "share"}
			w.untracked()
			dir := filepath.Join(w.root, "packages", w.install(1, 0, false).String())
			w.no(os.MkdirAll(filepath.Join(dir, "share"), 0o755))
			w.no(os.MkdirAll(filepath.Join(dir, "opt"), 0o755))
			w.no(os.WriteFile(filepath.Join(dir, "share/text"), []byte("from the package\n"), 0o644))
			source := filepath.Join(t.TempDir(), "x.c")
			w.no(os.WriteFile(source, []byte(prefixed), 0o644))
			program := filepath.Join(dir, "opt/program")
			if out, err := exec.Command("cc", "-o", program, source).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			cmd := w.command(app, "nest", "/opt/lull-test.layout/program")
			cmd.Path, cmd.Dir = launcher, w.home
			if who != "this user" {
				if os.Getuid() != 0 {
					t.Skip("needs root, to be another user")
				}
				open(t, w.root)
				w.no(os.Chown(w.home, 65534, 65534))
				w.no(os.Chmod(filepath.Dir(launcher), 0o755))
				open(t, launcher)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			if point != "" {
				// A machine may have no locale.
				script := "mount -t tmpfs lull-test /usr/share/locale && mkdir /usr/share/locale/de && mount -t tmpfs lull-test " + point + " && echo here >" + point + `/file && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"`
				cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script, launcher}, cmd.Args[1:]...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // Go makes its mounts private
			}
			in, err := cmd.StdinPipe()
			w.no(err)
			out, err := cmd.StdoutPipe()
			w.no(err)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			w.no(cmd.Start())
			l := &live{cmd: cmd, in: in, ended: make(chan struct{})}
			b := make([]byte, 4096)
			n, err := io.ReadAtLeast(out, b, 1)
			if err != nil && strings.Contains(stderr.String(), "user namespace") {
				t.Skip(stderr.String())
			}
			uid := "0 0"
			if who != "this user" {
				uid = "65534 65534"
			} else if os.Getuid() != 0 {
				uid = itoa(os.Getuid()) + " " + itoa(os.Getgid())
			}
			if got, want := string(b[:n]), "from the package from the package from the package from the package - "+uid+" "+w.home+"\n"; err != nil || got != want {
				t.Errorf("got %q, %v, %s; want %q", got, err, stderr.String(), want)
			}
			// The kernel and /proc show the files of the package.
			inodes, err := vacancy.FilesOf(cmd.Process.Pid)
			w.no(err)
			var st unix.Stat_t
			w.no(unix.Stat(program, &st))
			if !slices.ContainsFunc(slices.Collect(keys(inodes)), func(in vacancy.Inode) bool { return in.Ino == st.Ino }) {
				t.Errorf("the process has %v, and not the inode %d", inodes, st.Ino)
			}
			f, err := os.Open(program)
			w.no(err)
			defer f.Close()
			if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != unix.EAGAIN {
				t.Errorf("a lease of a file that runs: %v, want %v", err, unix.EAGAIN)
			}
			mounts, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/mountinfo")
			if w.no(err); !mountedAt(string(mounts), filepath.Join(dir, "opt"), "/opt/lull-test.layout") {
				t.Errorf("the mount is not there:\n%s", mounts)
			}
			if point != "" {
				inside := "/proc/" + itoa(cmd.Process.Pid) + "/root/usr/share"
				if b, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/root" + point + "/file"); err != nil || string(b) != "here\n" {
					t.Errorf("the mount of the host: got %q, %v, want %q and no error", b, err, "here\n")
				}
				var fs unix.Statfs_t
				if err := unix.Statfs(inside, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
					t.Errorf("/usr/share: got flags %#x, %v, want it read-only", fs.Flags, err)
				}
			}
			if _, err := os.Lstat("/opt/lull-test.layout"); !os.IsNotExist(err) {
				t.Errorf("the mount point outside of the mount namespace: got error %v, want that it does not exist", err)
			}
			in.Close()
			go func() { cmd.Wait(); close(l.ended) }()
			<-l.ended
		})
	}
}

func keys(m map[vacancy.Inode]bool) func(func(vacancy.Inode) bool) {
	return func(yield func(vacancy.Inode) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// open lets all users read a tree, and pass the directories above it.
func open(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.Type() == os.ModeSymlink {
			return err
		}
		return os.Chmod(p, 0o755)
	})
	for dir := filepath.Dir(root); err == nil && dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// prefixed is a program with compiled-in paths.
const prefixed = `#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static void show(const char *path)
{
	char line[100];
	FILE *f = fopen(path, "r");
	if (f && fgets(line, sizeof(line), f))
		for (char *c = line; *c && *c != '\n'; c++)
			putchar(*c);
	putchar(' ');
}
int main(void)
{
	char cwd[4096] = "";
	show("/usr/share/lull-test.layout/deep/text");
	show("/usr/lib/lull-test.layout/line");
	show("/usr/share/locale/text");
	show("/etc/lull-test.layout/text");
	printf(fopen("/etc/passwd", "r") ? "- " : "no users ");
	syscall(SYS_getcwd, cwd, sizeof(cwd)); /* glibc's function searches for the name */
	printf("%d %d %s\n", getuid(), getgid(), cwd);
	fflush(stdout);
	return getchar() == 'x';
}
`

// TestLayoutRefused: the error names the package and the cause, and where the kernel forbids
// namespaces, the setting.
func TestLayoutRefused(t *testing.T) {
	launcher := buildLayout(t)
	w := newWorld(t)
	w.layout = map[string]string{"/opt/lull-test.layout": "bin"}
	w.untracked()
	w.install(1, 0, false)
	refused := func(what string, cmd *exec.Cmd, want string) {
		t.Helper()
		if r := w.end(cmd); r.code != 69 || !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, "cannot run "+app) {
			t.Errorf("%s: got status %d, want 69, %q and %q: %s%s", what, r.code, "cannot run "+app, want, r.out, r.stderr)
		}
	}
	refused("no helper", w.command(app, "exit", "0"), "lull-layout is missing")
	if os.Getuid() != 0 {
		t.Log("not root: the limits are not tested")
		return
	}
	require.Setting(t, "/proc/sys/user/max_user_namespaces")
	open(t, w.root)
	open(t, launcher)
	w.no(os.RemoveAll(w.home)) // root's launch has made directories in it
	w.no(os.Mkdir(w.home, 0o755))
	w.no(os.Chown(w.home, 65534, 65534))
	for _, c := range []struct{ limit, shown, want string }{
		{"max_mnt_namespaces", "", "mount namespaces are forbidden: sysctl user.max_mnt_namespaces=10000 allows them"},
		{"max_user_namespaces", "", "user namespaces are forbidden: sysctl user.max_user_namespaces=10000 allows them"},
		// Kernels of distributions have these. The limit forbids the namespace, and is hidden
		// behind the setting.
		{"max_user_namespaces", "unprivileged_userns_clone=0", "user namespaces are forbidden for users: sysctl kernel.unprivileged_userns_clone=1 allows them"},
		{"max_user_namespaces", "apparmor_restrict_unprivileged_userns=1", "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows them"},
	} {
		settings := t.TempDir()
		open(t, settings)
		name, value, hidden := strings.Cut(c.shown, "=")
		prepare := "true"
		if hidden {
			for _, dir := range []string{"kernel", "user"} {
				w.no(os.Mkdir(filepath.Join(settings, dir), 0o755))
			}
			w.no(os.WriteFile(filepath.Join(settings, "kernel", name), []byte(value+"\n"), 0o644))
			prepare = "mount --bind " + settings + "/kernel /proc/sys/kernel && mount --bind " + settings + "/user /proc/sys/user"
		}
		// The limit of a user namespace of its own binds those below it.
		limit := "echo 0 >/proc/sys/user/" + c.limit + " && " + prepare + ` && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"`
		cmd := w.command(app, "exit", "0")
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", limit, launcher}, cmd.Args[1:]...)
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 65534, HostID: 65534, Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true}
		refused(c.limit+" "+c.shown, cmd, "hint: "+c.want)
	}
}

// mountedAt reports whether the mounts of a process have a directory at a place. They name it
// by its path in its file system, which may be mounted at /tmp.
func mountedAt(mounts, dir, at string) bool {
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == at && len(f[3]) > 1 && strings.HasSuffix(dir, f[3]) {
			return true
		}
	}
	return false
}
