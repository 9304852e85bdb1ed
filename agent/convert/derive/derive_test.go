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
