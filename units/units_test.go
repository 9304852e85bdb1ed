package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestSandboxes: the exposure of the system's units, as systemd counts it in tenths, stays low.
func TestSandboxes(t *testing.T) {
	require.Program(t, "systemd-analyze")
	for unit, most := range map[string]string{"lulld.service": "40", "lull-boot.service": "20", "lull-system-commit.service": "20", "lull-resign@.service": "20"} {
		output(t, ".", "systemd-analyze", "security", "--offline=yes", "--threshold="+most, unit)
	}
}

// TestInstallUser: what a user installs without root is below the home directory, and names
// only programs there.
func TestInstallUser(t *testing.T) {
	home, bin := t.TempDir(), t.TempDir()
	for _, name := range []string{"lull", "lulld", "lull-userd", "lull-run", "lull-convert", "lull-release-agent"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho $0\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // also over an earlier one
		cmd := exec.Command("env", "-i", "HOME="+home, "PATH="+os.Getenv("PATH"), "BIN="+bin, "./install-user")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "enable --now lulld.service lull-userd.path") {
			t.Fatalf("%v: %s; want no error and %q in the output", err, out, "enable --now lulld.service lull-userd.path")
		}
	}
	programs := filepath.Join(home, ".local/lib/lull")
	if at, err := filepath.EvalSymlinks(filepath.Join(home, ".local/bin/lull")); err != nil || at != filepath.Join(programs, "lull") {
		t.Errorf("lull is %s: %v; want no error and %v", at, err, filepath.Join(programs, "lull"))
	}
	for file, want := range map[string]string{
		".config/systemd/user/lulld.service":                     "ExecStart=" + programs + "/lulld --user\n",
		".config/systemd/user/lull-userd.service":                "ExecStart=" + programs + "/lull-userd ",
		".config/systemd/user/lull-userd.path":                   "PathExists=%t/lull/wanted\n",
		".config/environment.d/60-lull.conf":                     "/lull/exports/bin",
		".local/share/dbus-1/services/org.lull.Session1.service": "Exec=" + programs + "/lull-userd\n",
	} {
		b, err := os.ReadFile(filepath.Join(home, file))
		if err != nil || !strings.Contains(string(b), want) || strings.Contains(string(b), "/usr/libexec") || strings.Contains(string(b), "=/usr/bin/lull ") {
			t.Errorf("%s: got %v and\n%s\nwant %q, and neither /usr/libexec nor /usr/bin/lull", file, err, b, want)
		}
	}
}

func TestMain(m *testing.M) { rig.Main(m.Run) }

func output(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// TestPackages makes both packages and checks them with distributions' tools.
// Their files are those that `make install` installs.
func TestPackages(t *testing.T) {
	require.NotShort(t)
	require.Root(t)
	require.Program(t, "make", "dpkg-deb", "rpm", "lintian", "appstreamcli", "bash")
	dir := t.TempDir()
	tree, bin := filepath.Join(dir, "tree"), rig.Binaries(t, "")
	output(t, rig.Module(), "make", "-s", "install", "BIN="+bin, "DESTDIR="+tree)
	output(t, rig.Module(), "make", "-s", "packages", "BIN="+bin, "DIST="+dir)

	installed := strings.Fields(output(t, tree, "find", ".", "-type", "f", "-printf", "/%P\n"))
	slices.Sort(installed)
	of := func(list string, own ...string) (files []string) {
		for _, f := range strings.Fields(list) {
			if !slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(f, p) }) && !strings.HasSuffix(f, "/") {
				files = append(files, f)
			}
		}
		slices.Sort(files)
		return files
	}
	deb := output(t, dir, "sh", "-c", `dpkg-deb --fsys-tarfile lull_*.deb | tar --list | sed 's/^\.//'`)
	if got := of(deb, "/usr/share/lintian/", "/usr/share/doc/lull/copyright", "/usr/share/doc/lull/changelog.gz"); !slices.Equal(got, installed) {
		t.Errorf("the .deb: got files\n%v\nwant as installed\n%v", got, installed)
	}
	rpm := output(t, dir, "sh", "-c", `rpm --query --package --queryformat '[%{FILEMODES:perms} %{FILENAMES}\n]' lull-*.rpm | sed -n 's/^-[^ ]* //p'`)
	if got := of(rpm, "/usr/share/licenses/"); !slices.Equal(got, installed) {
		t.Errorf("the .rpm: got files\n%v\nwant as installed\n%v", got, installed)
	}

	if out := output(t, dir, "sh", "-c", "lintian --allow-root --fail-on error,warning lull_*.deb"); out != "" {
		t.Errorf("lintian: got\n%s\nwant no output", out)
	}
	output(t, tree, "sh", "-c", "appstreamcli validate --no-net usr/share/metainfo/*.xml")
	output(t, tree, "bash", "-n", "usr/share/bash-completion/completions/lull")
	for script, scriptlet := range map[string]string{"postinst": "postin", "prerm": "preun", "postrm": "postun"} {
		text := output(t, dir, "sh", "-c", "dpkg-deb --info lull_*.deb "+script)
		if m := regexp.MustCompile(`@[A-Z_]+@`).FindString(text); m != "" {
			t.Errorf("%s: got the placeholder %s, want it replaced", script, m)
		}
		if theirs := output(t, dir, "sh", "-c", "rpm --query --package --queryformat '%{"+scriptlet+"}' lull-*.rpm"); strings.TrimSpace(theirs) != strings.TrimSpace(text) {
			t.Errorf("%s of the .rpm: got\n%s\nwant %s of the .deb:\n%s", scriptlet, theirs, script, text)
		}
	}
}

// TestEveryFileHasAPlace: a file without a known destination is not left out
// silently.
func TestEveryFileHasAPlace(t *testing.T) {
	dir := t.TempDir()
	output(t, "..", "cp", "-r", "units", "dbus", "policy", dir)
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lull", "lulld", "lull-userd", "lull-run", "lull-convert", "lull-layout", "lull-release-agent"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho completion\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// In place of Go a program that makes one page.
	maker := filepath.Join(dir, "go")
	if err := os.WriteFile(maker, []byte("#!/bin/sh\nfor to; do :; done\necho page > \"$to/lull.1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	install := func() (string, error) {
		cmd := exec.Command(filepath.Join(dir, "units/install"))
		cmd.Env = append(os.Environ(), "DESTDIR="+dir+"/to", "PREFIX=/usr", "BIN="+bin, "GO="+maker)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := install(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"usr/share/man/man1/lull.1.gz", "usr/lib/systemd/user/lulld.service", "usr/lib/systemd/system/lulld.service", "etc/profile.d/lull.sh"} {
		if _, err := os.Stat(filepath.Join(dir, "to", want)); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "units/lull.strange"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := install(); err == nil || !strings.Contains(out, "cannot tell where units/lull.strange belongs") {
		t.Errorf("%v: %s; want an error and %q in the output", err, out, "cannot tell where units/lull.strange belongs")
	}
}
