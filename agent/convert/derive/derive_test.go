package derive

import "testing"

func TestSplitFile(t *testing.T) {
	for file, want := range map[string][2]string{
		"go1.26.8.linux-amd64.tar.gz":           {"go", "1.26.8"},
		"Thing-1.2-x86_64.AppImage":             {"Thing", "1.2"},
		"thing_2.0~rc1_amd64.deb":               {"thing", "2.0~rc1"},
		"node-v22.1.0-linux-x64.tar.xz":         {"node", "22.1.0"},
		"tool-x86_64-unknown-linux-musl.tar.gz": {"tool", ""},
		"Thing.AppImage":                        {"Thing", ""},
		"7zip.zip":                              {"7zip", ""},
		".tar":                                  {"", ""},
	} {
		name, version := splitFile(file)
		if got := [2]string{name, version}; got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

func TestLabel(t *testing.T) {
	for text, want := range map[string]string{"org.example.my_app": "org.example.my-app", "-x.": "x", "My App": "My-App", "../etc": "etc", "ä": ""} {
		if got := label(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestCopyright(t *testing.T) {
	const head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: x\n"
	for text, want := range map[string]string{
		head + "\nFiles: *\nCopyright: a\nLicense: GPL-2+\n text\n\nFiles: debian/*\nLicense: MIT\n": "GPL-2+",
		head + "\nFiles: x\nLicense: MIT\n\nFiles: y\nLicense: MIT\n":                                "MIT",
		head + "\nFiles: x\nLicense: MIT\n\nFiles: y\nLicense: GPL-2\n":                              "",
		head + "\nLicense: MIT\n text\n":                                                             "",
		head + "\nFiles: *\n  x\nLicense: A\x1b[2J and\tB\n":                                         "A[2J and B",
		"This package was debianized.\nLicense: GPL\n":                                               "",
		"Format: x\n\nno field\n":                                                                    "",
		"":                                                                                           "",
	} {
		if got := copyright([]byte(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzCopyright(f *testing.F) {
	f.Add([]byte("Format: 1\n\nFiles: *\nLicense: GPL-2+\n text\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := copyright(b); len(got) > maxLine {
			t.Errorf("got a copyright of %d bytes, want at most %d", len(got), maxLine)
		}
	})
}
