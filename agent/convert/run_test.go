package convert_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/e2e/require"
)

// program builds the converter in a directory where every user can start it.
func program(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lull-convert-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "go", "build", "-o", dir, "github.com/lull/lull/cmd/lull-convert")
	return filepath.Join(dir, "lull-convert")
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}

// tree makes a directory with files: path → content. Those of bin and AppRun are executable.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for p, content := range files {
		perm := os.FileMode(0o644)
		if strings.Contains(p, "bin/") || strings.Contains(p, "AppRun") || strings.Contains(p, "DEBIAN/post") {
			perm = 0o755
		}
		full := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), perm); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func convertFile(t *testing.T, program, file string) (*convert.Description, string, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "package")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := convert.Run(context.Background(), dir, []*os.File{f}, convert.Options{Program: program})
	return d, dir, err
}

const entry = "[Desktop Entry]\nType=Application\nName=Notes\nComment=Write notes\nExec=notes %F\nIcon=org.example.notes\nX-AppImage-Version=1.5\n"

// TestRun converts real files of each format, made by the usual tools.
func TestRun(t *testing.T) {
	for _, tool := range []string{"mksquashfs", "dpkg-deb", "xz", "zstd", "bzip2"} {
		require.Program(t, tool)
	}
	prog := program(t)
	shared := map[string]string{
		"usr/bin/notes": "#!/bin/sh\n", "usr/share/applications/org.example.notes.desktop": entry,
		"usr/share/icons/hicolor/64x64/apps/org.example.notes.png": "png",
		"usr/share/metainfo/org.example.notes.metainfo.xml": "<component><id>org.example.notes</id><project_license>MIT</project_license><name>Notes</name><name xml:lang='de'>Notizen</name>" +
			"<releases><release version='1.5'><description><p>Faster.</p><ul><li>Safer</li></ul></description></release></releases></component>",
	}
	with := func(more map[string]string) map[string]string {
		all := map[string]string{}
		for _, m := range []map[string]string{shared, more} {
			for k, v := range m {
				all[k] = v
			}
		}
		return all
	}
	root := tree(t, shared)
	out := t.TempDir()
	files := map[string]string{} // file → version
	for ext, flag := range map[string]string{"tar": "--no-auto-compress", "tar.gz": "-z", "tar.xz": "-J", "tar.bz2": "-j", "tar.zst": "--zstd"} {
		file := filepath.Join(out, "notes-1.5-linux-x86_64."+ext)
		run(t, "tar", "-C", root, flag, "-cf", file, "usr")
		files[file] = "1.5"
	}
	packed := filepath.Join(out, "notes-1.5.zip")
	writeZip(t, root, packed)
	files[packed] = "1.5"
	debian := tree(t, with(map[string]string{
		"DEBIAN/control":  "Package: notes\nVersion: 1:1.5-2\nArchitecture: all\nMaintainer: A <a@example.org>\nDepends: libc6 (>= 2.34), python3\nDescription: notes\n more\n",
		"DEBIAN/postinst": "#!/bin/sh\nadduser --system notes\nupdate-alternatives --install /usr/bin/editor editor /usr/bin/notes 1\n",
	}))
	file := filepath.Join(out, "notes.deb")
	run(t, "dpkg-deb", "--root-owner-group", "-b", debian, file)
	files[file] = "1:1.5-2"
	image := tree(t, with(map[string]string{"AppRun": "#!/bin/sh\n", "notes.desktop": entry}))
	for _, compressor := range []string{"zstd", "xz", "gzip"} {
		disk := filepath.Join(out, compressor)
		run(t, "mksquashfs", image, disk, "-comp", compressor, "-root-owned", "-quiet", "-no-progress")
		squashfs, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		stub, err := os.ReadFile(prog) // any program is sufficient
		if err != nil {
			t.Fatal(err)
		}
		copy(stub[8:], "AI\x02")
		file := filepath.Join(out, "Notes-"+compressor+".AppImage")
		if err := os.WriteFile(file, append(stub, squashfs...), 0o755); err != nil {
			t.Fatal(err)
		}
		files[file] = "1.5"
	}
	for file, version := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			d, dir, err := convertFile(t, prog, file)
			if err != nil {
				t.Fatal(err)
			}
			l := d.Launch
			wantName := "org.example.notes"
			if strings.HasSuffix(file, ".AppImage") {
				wantName = "notes"
			}
			if l.Name != wantName || l.Version != version || l.Title != "Notes" || l.Summary != "Write notes" ||
				l.Icon != "usr/share/icons/hicolor/64x64/apps/org.example.notes.png" || l.Notes != "Faster.\n- Safer" || l.License != "MIT" {
				t.Errorf("%s: got %+v, want name %q, version %q, \"Notes\", \"Write notes\", the icon of org.example.notes, \"Faster.\\n- Safer\" and MIT", file, l, wantName, version)
			}
			if len(l.Apps) != 1 || l.Apps[0].Name != "notes" || l.Apps[0].Desktop == "" {
				t.Errorf("%s: got apps %+v, want notes alone, with a desktop file", file, l.Apps)
			}
			fi, err := os.Stat(filepath.Join(dir, l.Apps[0].Command[0]))
			if err != nil || fi.Mode().Perm() != 0o755 {
				t.Errorf("%s: got program %v (%v), want mode 0755", file, fi, err)
			}
			if strings.HasSuffix(file, ".deb") && (!slices.Equal(d.Needs, []string{"libc6 (>= 2.34)", "python3"}) ||
				!slices.Equal(d.Scripts, []string{"postinst (it would add a user, register an alternative)"})) {
				t.Errorf("%s: got needs %q and scripts %q, want libc6 (>= 2.34), python3 and one postinst", file, d.Needs, d.Scripts)
			}
			second, copied, err := convertFile(t, prog, file)
			if err != nil || !reflect.DeepEqual(second, d) || hashes(t, copied) != hashes(t, dir) {
				t.Errorf("%s: got %+v (%v) from the second conversion, want the same as from the first: %+v", file, second, err, d)
			}
		})
	}
}

// writeZip makes a zip file of a directory, with modes as Info-ZIP writes them.
func writeZip(t *testing.T, dir, file string) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := &zip.FileHeader{Name: strings.TrimPrefix(path, dir+"/"), Method: zip.Deflate}
		h.SetMode(info.Mode())
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to, err := w.CreateHeader(h)
		if err == nil {
			_, err = to.Write(content)
		}
		return err
	})
	if err = errors.Join(err, w.Close()); err == nil {
		err = os.WriteFile(file, b.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPlainAppImage: without AppStream metadata, the desktop file and the name of the file
// describe an AppImage.
func TestPlainAppImage(t *testing.T) {
	require.Program(t, "mksquashfs")
	prog := program(t)
	root := tree(t, map[string]string{"AppRun": "#!/bin/sh\n", "notes.desktop": strings.Replace(entry, "X-AppImage-Version=1.5\n", "", 1), "org.example.notes.png": "png"})
	for _, compressor := range []string{"zstd", "xz"} {
		disk := filepath.Join(t.TempDir(), "disk")
		run(t, "mksquashfs", root, disk, "-comp", compressor, "-root-owned", "-quiet", "-no-progress")
		squashfs, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		stub, err := os.ReadFile(prog) // any program is sufficient
		if err != nil {
			t.Fatal(err)
		}
		copy(stub[8:], "AI\x02")
		file := filepath.Join(t.TempDir(), "Notes-2.1-x86_64.AppImage")
		if err := os.WriteFile(file, append(stub, squashfs...), 0o755); err != nil {
			t.Fatal(err)
		}
		d, _, err := convertFile(t, prog, file)
		if err != nil {
			t.Fatal(err)
		}
		if l := d.Launch; l.Name != "notes" || l.Version != "2.1" || l.Title != "Notes" || l.Icon != "org.example.notes.png" || l.License != "" || len(l.Apps) != 1 {
			t.Errorf("%s: got %+v, want notes 2.1 with title Notes, icon org.example.notes.png, no license and one app", compressor, l)
		}
	}
}

// hashes lists the files of a tree with their modes and digests.
func hashes(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", "find . -printf '%P %y %m %l\n' | sort && find . -type f -exec sha256sum {} + | sort")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("hashes: got %q (%v), want a line for each file", out, err)
	}
	return string(out)
}

// TestRights reads, from inside, the rights of a program that root starts as the converter.
func TestRights(t *testing.T) {
	require.Root(t)
	dir, err := os.MkdirTemp("", "lull-convert-") // every user can start a program there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	prog := filepath.Join(dir, "spy")
	script := "#!/bin/sh\necho \"$(/usr/bin/id -u):$(/usr/bin/id -G) $(/usr/bin/env | /bin/grep -cv '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD=') $(/bin/grep -c : /proc/net/dev) $(/usr/bin/cut -d ' ' -f 7 /proc/$$/stat) $(/usr/bin/test $$ = $(/usr/bin/cut -d ' ' -f 6 /proc/$$/stat); echo $?)\" >&2\nexit 1\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(prog, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = convertFile(t, prog, file)
	if err == nil || err.Error() != "cannot convert 65519:65519 0 1 0 0" { // its user and groups, no environment, only the interface lo, no terminal, its own session
		t.Errorf("got %v, want \"cannot convert 65519:65519 0 1 0 0\"", err)
	}
}

// TestInterrupted: a cancelled conversion ends the converter.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := convert.Run(ctx, t.TempDir(), []*os.File{f}, convert.Options{Program: program(t)}); !errkind.Is(err, errkind.Interrupted) {
		t.Errorf("got %v, want an error of kind %s", err, errkind.Interrupted)
	}
}

// TestRunRefuses: a file that cannot be converted has one error, which names it.
func TestRunRefuses(t *testing.T) {
	prog := program(t)
	for name, content := range map[string]string{"text.txt": "hello", "empty.deb": "", "cut.zip": "PK\x03\x04", "cut.deb": "!<arch>\n", "program": "\x7fELF"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, dir, err := convertFile(t, prog, file); err == nil || !strings.HasPrefix(err.Error(), "cannot convert "+name+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line \"cannot convert %s: …\"", name, err, name)
		} else if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: got %v left (%v), want nothing", name, left, err)
		}
	}
}

// TestPlaces: the lull.yaml of a converted package names the directories in which its programs
// look for parts, and the places that are compiled into them.
func TestPlaces(t *testing.T) {
	require.Program(t, "dpkg-deb")
	prog := program(t)
	files := map[string]string{
		"DEBIAN/control":                                         "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: thing\n",
		"usr/bin/thing":                                          "#!/bin/sh\n. /etc/thing.d/*\nexec cat /usr/share/thing/data \"$HOME/usr/share/unused/x\"\n",
		"usr/share/thing/data":                                   "x",
		"etc/thing.d/defaults":                                   "FLAGS=",
		"etc/unused/x":                                           "x",
		"usr/bin/pad-gtk":                                        "\x7fELF\x00/usr/share\x00pad\x00",
		"usr/share/pad/data":                                     "x",
		"usr/share/unused/data":                                  "x /usr/share/unused/y",
		"usr/share/doc/thing/example.py":                         "'/usr/share/unused/x'\n",
		"usr/share/locale/de/LC_MESSAGES/t.mo":                   "x",
		"usr/lib/x86_64-linux-gnu/libthing.so.1":                 "\x7fELF" + strings.Repeat("\x00", 32<<10-8) + "/opt/Thing/lib/x.so\x00/usr/share/locale\x00",
		"usr/lib/x86_64-linux-gnu/girepository-1.0/T-1.typelib":  "x",
		"usr/lib/x86_64-linux-gnu/qt6/plugins/imageformats/t.so": "x",
		"usr/lib/x86_64-linux-gnu/babl-0.1/t.so":                 "x",
		"usr/lib/x86_64-linux-gnu/gegl-0.4/t.so":                 "x",
		"usr/lib/python3/dist-packages/thing/__init__.py":        "P = '/usr/lib/thing'\n",
		"usr/lib/thing/helper":                                   "x",
		"usr/lib/other/helper":                                   "x",
		"usr/bin/thing-js":                                       "#!/bin/sh\n// name: 'org.example.Thing', prefix: '/usr', libdir: '/usr/lib/x86_64-linux-gnu', for: '/usrlocal/share'\n",
		"usr/share/org.example.Thing/code":                       "x",
		"usr/lib/x86_64-linux-gnu/org.example.Thing/t.so":        "x",
		"usr/share/applications/org.example.Thing.desktop":       "[Desktop Entry]\nType=Application\nName=Thing\nExec=thing-js\n",
		"opt/Thing/lib/x.so":                                     "x",
		"usr/lib/x86_64-linux-gnu/gdk-pixbuf-2.0/2.10.0/loaders/libpixbufloader-t.so": "x",
	}
	file := filepath.Join(t.TempDir(), "thing.deb")
	run(t, "dpkg-deb", "--root-owner-group", "-b", tree(t, files), file)
	d, _, err := convertFile(t, prog, file)
	if err != nil {
		t.Fatal(err)
	}
	got := string(convert.LullYAML(&d.Launch))
	_, got, _ = strings.Cut(got, "environment:\n")
	want := `  BABL_PATH:
    prepend:
      - "${package}/usr/lib/x86_64-linux-gnu/babl-0.1"
  GDK_PIXBUF_MODULEDIR: "${package}/usr/lib/x86_64-linux-gnu/gdk-pixbuf-2.0/2.10.0/loaders"
  GEGL_PATH:
    prepend:
      - "${package}/usr/lib/x86_64-linux-gnu/gegl-0.4"
  GI_TYPELIB_PATH:
    prepend:
      - "${package}/usr/lib/x86_64-linux-gnu/girepository-1.0"
  LD_LIBRARY_PATH:
    prepend:
      - "${package}/usr/lib/x86_64-linux-gnu"
  PATH:
    prepend:
      - "${package}/usr/bin"
  PYTHONPATH:
    prepend:
      - "${package}/usr/lib/python3/dist-packages"
  QT_PLUGIN_PATH:
    prepend:
      - "${package}/usr/lib/x86_64-linux-gnu/qt6/plugins"
  XDG_DATA_DIRS:
    prepend:
      - "${package}/usr/share"
layout:
  "/etc/thing.d": "etc/thing.d"
  "/opt/Thing": "opt/Thing"
  "/usr/lib/thing": "usr/lib/thing"
  "/usr/lib/x86_64-linux-gnu/org.example.Thing": "usr/lib/x86_64-linux-gnu/org.example.Thing"
  "/usr/share/locale": "usr/share/locale"
  "/usr/share/org.example.Thing": "usr/share/org.example.Thing"
  "/usr/share/pad": "usr/share/pad"
  "/usr/share/thing": "usr/share/thing"
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
