package apt

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/lull/lull/agent/repo"
)

func TestParseLine(t *testing.T) {
	arch := Architecture()
	for _, c := range []struct {
		line, signedBy, problem string
		want                    repo.Apt
	}{
		{line: "deb https://example.org/debian stable main", want: repo.Apt{URL: "https://example.org/debian", Suite: "stable", Components: []string{"main"}}},
		{line: " deb  [ arch=" + arch + " signed-by=/k.asc ]  http://h/ a/b x y ", signedBy: "/k.asc", want: repo.Apt{URL: "http://h/", Suite: "a/b", Components: []string{"x", "y"}}},
		{line: "deb file:///srv/flat ./", want: repo.Apt{URL: "file:///srv/flat", Suite: "./", Components: []string{}}},
		{line: "deb https://h/ pool/ main", problem: "is a path"},
		{line: "deb https://h/ stable", problem: "no component"},
		{line: "deb https://h/", problem: "no suite"},
		{line: "deb-src https://h/ stable main", problem: "begin with deb"},
		{line: "deb [arch=vax] https://h/ stable main", problem: "it is for vax"},
		{line: "deb [trusted=yes] https://h/ stable main", problem: "always verified"},
		{line: "deb [magic=1] https://h/ stable main", problem: "unknown"},
		{line: "deb [arch=" + arch + " https://h/ stable main", problem: "no end"},
		{line: "deb ftp://h/ stable main", problem: "want http"},
		{line: "deb h stable main", problem: "no url"},
		{line: "deb https://h/ ../x main", problem: "no suite"},
		{line: "deb https://h/ stable ../../etc", problem: "no component"},
	} {
		got, signedBy, err := ParseLine(c.line)
		switch {
		case c.problem != "":
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%q: want %q, got %v", c.line, c.problem, err)
			}
		case err != nil || signedBy != c.signedBy || got.URL != c.want.URL || got.Suite != c.want.Suite || !slices.Equal(got.Components, c.want.Components):
			t.Errorf("%q: %+v, %q, %v", c.line, got, signedBy, err)
		}
	}
}

func TestParseSources(t *testing.T) {
	arch := Architecture()
	for _, c := range []struct{ text, line, signedBy, keys, problem string }{
		{text: "Types: deb deb-src\nURIs: https://h/d\nSuites: stable\nComponents: main\n contrib\nArchitectures: vax " + arch + "\nSigned-By: /k.gpg\n# more\nX-Other: y\n", line: "deb https://h/d stable main contrib", signedBy: "/k.gpg"},
		{text: "Enabled: no\nTypes: deb\nURIs: https://x/\nSuites: a\n\nTypes: deb\nURIs: https://h/\nSuites: ./\n\nTypes: deb-src\nURIs: https://h/\nSuites: ./\n", line: "deb https://h/ ./"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s\nComponents: c\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n AAAA\n", line: "deb https://h/ s c", keys: keyBegins + "\n\nAAAA\n"},
		{text: "", problem: "no enabled one"},
		{text: "Types: deb\nURIs: https://h/ https://i/\nSuites: s\nComponents: c\n", problem: "2 URIs and 1 suites"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s t\nComponents: c\n", problem: "1 URIs and 2 suites"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s\nComponents: c\n\nTypes: deb\nURIs: https://h/\nSuites: t\nComponents: c\n", problem: "has several"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s\nComponents: c\nTrusted: yes\n", problem: "always verified"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s\nComponents: c\nArchitectures: vax\n", problem: "it is for vax"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s\n", problem: "no component"},
		{text: "Types: deb\nURIs: h\nSuites: s\nComponents: c\n", problem: "no url"},
		{text: "Types: deb\nURIs: https://h/\nSuites: s\nComponents: c\nSigned-By: /a /b\n", problem: "several files"},
		{text: "Types: deb\nTypes: deb\n", problem: "twice"},
		{text: "deb https://h/ s c\n", problem: "no enabled one"},
		{text: strings.Repeat("#\n", 1<<20), problem: "more than 1048576 bytes"},
	} {
		got, signedBy, keys, err := ParseSources([]byte(c.text))
		switch {
		case c.problem != "":
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%.200q: want %q, got %v", c.text, c.problem, err)
			}
		case err != nil || got.Line() != c.line || signedBy != c.signedBy || string(keys) != c.keys:
			t.Errorf("%q: %q, %q, %q, %v", c.text, got.Line(), signedBy, keys, err)
		}
	}
}

func TestParsePackage(t *testing.T) {
	for _, c := range []struct{ text, name, packages string }{
		{"jq", "jq", "jq"}, {"x=g++-12,libc6", "x", "g++-12 libc6"},
		{"", "", ""}, {"x=", "", ""}, {"x=A", "", ""}, {"x=a,", "", ""}, {"../x", "", ""}, {"x=" + strings.Repeat("ab,", 40) + "ab", "", ""},
	} {
		name, packages, err := ParsePackage(c.text)
		if name != c.name || strings.Join(packages, " ") != c.packages || (err == nil) != (c.name != "") {
			t.Errorf("ParsePackage(%q): got %q, %q, %v; want %q, %q and an error: %v", c.text, name, packages, err, c.name, c.packages, c.name == "")
		}
	}
}

const hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// releaseText is a release with fields in place of its own.
func releaseText(replace map[string]string) string {
	fields := map[string]string{"Suite": "stable", "Codename": "bookworm", "Date": "Sat, 28 Nov 2026 02:53:00 UTC",
		"Architectures": "all amd64", "SHA256": "\n " + hash + " 0 main/binary-" + Architecture() + "/Packages.gz\n " + hash + " 0 main/binary-all/Packages.gz"}
	maps.Copy(fields, replace)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		b.WriteString(strings.Replace(k+": "+fields[k], ": \n", ":\n", 1) + "\n")
	}
	return b.String()
}

func TestParseRelease(t *testing.T) {
	for _, c := range []struct {
		replace map[string]string
		problem string
	}{
		{nil, ""},
		{map[string]string{"Date": "Sat,  8 Nov 2026 02:53:00 GMT"}, ""},
		{map[string]string{"Date": "Sat, 28 Nov 2026 02:53:00 +0000"}, ""},
		{map[string]string{"Date": "2026-11-28"}, "date"},
		{map[string]string{"Date": "Sat, 28 Nov 2026 02:53:00 PST"}, "date"},
		{map[string]string{"Valid-Until": "soon"}, "its end"},
		{map[string]string{"SHA256": ""}, "no SHA-256"},
		{map[string]string{"SHA256": "\n " + hash + " -1 x"}, "damaged"},
		{map[string]string{"SHA256": "\n 12 1 x"}, "damaged"},
		{map[string]string{"SHA256": "\n " + hash + " 1"}, "damaged"},
		{map[string]string{"Suite": "stable\nSuite: testing"}, "twice"},
		{map[string]string{"Architectures": "x\nno field"}, "is no field"},
	} {
		_, err := parseRelease([]byte(releaseText(c.replace)))
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%v: want %q, got %v", c.replace, c.problem, err)
		}
	}
	r, err := parseRelease([]byte(releaseText(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if paths, err := r.indexPaths("stable", []string{"main"}, Architecture()); err != nil || len(paths) != 2 {
		t.Errorf("%v, %v; want no error and 2 paths", paths, err)
	}
	if _, err := r.indexPaths("stable", []string{"main", "contrib"}, Architecture()); err == nil {
		t.Error("a missing list is not noticed")
	}
	// Without "all" among its architectures, the list of packages for all architectures
	// belongs to another repository (security.debian.org has one that is not kept up).
	if r, err = parseRelease([]byte(releaseText(map[string]string{"Architectures": "amd64"}))); err != nil {
		t.Fatal(err)
	}
	if paths, err := r.indexPaths("stable", []string{"main"}, Architecture()); err != nil || len(paths) != 1 {
		t.Errorf("%v, %v; want no error and 1 paths", paths, err)
	}
}

func TestUsable(t *testing.T) {
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	r := Release{Suite: "stable", Codename: "bookworm", Date: now.Add(-time.Hour), ValidUntil: now.Add(time.Hour)}
	for _, c := range []struct {
		suite    string
		accepted time.Time
		at       time.Time
		problem  string
	}{
		{"stable", time.Time{}, now, ""},
		{"bookworm", r.Date, now, ""},
		{"pool/", r.Date, now, ""},
		{"testing", time.Time{}, now, "of the suite"},
		{"stable", r.Date.Add(time.Second), now, "rolled back"},
		{"stable", time.Time{}, now.Add(2 * time.Hour), "expired"},
		{"stable", time.Time{}, now.Add(-48 * time.Hour), "future"},
	} {
		err := r.usable(c.suite, c.accepted, c.at)
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%+v: got %v, want an error with %q, or none if that is empty", c, err, c.problem)
		}
	}
}

// signer makes a key with a lifetime in days; zero means that it never expires.
func signer(t testing.TB, at time.Time, days uint32) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Vendor", "", "vendor@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: days * 86400, Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func public(t testing.TB, armoured bool, list ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range list {
		w := io.WriteCloser(nopCloser{&b})
		var err error
		if armoured {
			w, err = armor.Encode(&b, openpgp.PublicKeyType, nil)
		}
		if err == nil {
			err = e.Serialize(w)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if armoured {
			b.WriteString("\n")
		}
	}
	return b.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func sign(t testing.TB, text string, at time.Time, list ...*openpgp.Entity) []byte {
	t.Helper()
	var keys []*packet.PrivateKey
	for _, e := range list {
		keys = append(keys, e.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, keys, &packet.Config{Time: func() time.Time { return at }})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

// TestVerify: one good signature of a trusted key is required and enough, beside any other
// signatures.
func TestVerify(t *testing.T) {
	then, now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	good, other, short := signer(t, then, 0), signer(t, then, 0), signer(t, then, 30)
	for _, armoured := range []bool{true, false} {
		keys, err := ReadKeys(public(t, armoured, good, short))
		if err != nil || len(keys) != 2 {
			t.Fatalf("%d keys, %v; want no error and 2 keys", len(keys), err)
		}
		for _, c := range []struct {
			by      []*openpgp.Entity
			problem string
		}{
			{[]*openpgp.Entity{good}, ""},
			{[]*openpgp.Entity{other, good}, ""},
			{[]*openpgp.Entity{short, good}, ""},
			{[]*openpgp.Entity{other}, "is trusted"},
			{[]*openpgp.Entity{short}, "has expired"},
		} {
			text, err := verify(sign(t, releaseText(nil), then, c.by...), keys, now)
			switch {
			case c.problem == "" && (err != nil || string(text) != releaseText(nil)):
				t.Errorf("%q, %v", text, err)
			case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
				t.Errorf("want %q, got %v", c.problem, err)
			}
		}
		signed := sign(t, releaseText(nil), then, good)
		for name, bad := range map[string][]byte{
			"changed": bytes.Replace(signed, []byte("stable"), []byte("Stable"), 1), "before": append([]byte("x\n"), signed...), "behind": append(slices.Clone(signed), "x\n"...),
			"twice": append(slices.Clone(signed), signed...), "cut": signed[:len(signed)-60], "empty": nil, "page": []byte("<html>"), "plain": []byte(releaseText(nil)),
		} {
			if text, err := verify(bad, keys, now); err == nil {
				t.Errorf("%s: %q; want an error", name, text)
			}
		}
	}
}

// TestVerifyDetached: the signatures of a Release file may be in a file beside it, in any form
// that gpg writes.
func TestVerifyDetached(t *testing.T) {
	then, now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	good, other := signer(t, then, 0), signer(t, then, 0)
	keys, err := ReadKeys(public(t, false, good))
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(releaseText(nil))
	detached := func(armoured bool, by *openpgp.Entity) []byte {
		sign := openpgp.DetachSign
		if armoured {
			sign = openpgp.ArmoredDetachSign
		}
		var b bytes.Buffer
		if err := sign(&b, by, bytes.NewReader(text), &packet.Config{Time: func() time.Time { return then }}); err != nil {
			t.Fatal(err)
		}
		return append(b.Bytes(), strings.Repeat("\n", map[bool]int{true: 1}[armoured])...)
	}
	for name, signatures := range map[string][]byte{
		"armoured": detached(true, good), "binary": detached(false, good),
		"two armoured": slices.Concat(detached(true, other), detached(true, good)), "two binary": slices.Concat(detached(false, other), detached(false, good)),
	} {
		if err := verifyDetached(text, signatures, keys, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := verifyDetached(bytes.Replace(text, []byte("stable"), []byte("Stable"), 1), signatures, keys, now); err == nil {
			t.Errorf("%s: a changed release is accepted", name)
		}
	}
	for name, bad := range map[string][]byte{
		"another key": detached(true, other), "another binary key": detached(false, other), "cut": detached(true, good)[:120], "empty": nil, "page": []byte("<html>"),
		"a key": public(t, true, good), "many": bytes.Repeat(detached(true, other), 70),
	} {
		if err := verifyDetached(text, bad, keys, now); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestReadKeys(t *testing.T) {
	e := signer(t, time.Now(), 0)
	var private bytes.Buffer
	if err := e.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"private": private.Bytes(), "empty": nil, "text": []byte("key"), "cut": public(t, true, e)[:200], "large": make([]byte, MaxKeys+1)} {
		if keys, err := ReadKeys(bad); err == nil {
			t.Errorf("%s: %d keys", name, len(keys))
		}
	}
}

func TestNewest(t *testing.T) {
	entry := func(name, version, arch, more string) string {
		return "Package: " + name + "\nVersion: " + version + "\nArchitecture: " + arch + "\nDescription: x\n y\n .\nFilename: pool/" + name + ".deb\nSize: 1\nSHA256: " + hash + "\n" + more + "\n"
	}
	arch := Architecture()
	found := map[string]Package{}
	index := entry("a", "1.9", arch, "") + "\n" + entry("a", "1.10", arch, "") + entry("a", "9", "vax", "") + entry("b", "1", "all", "") + entry("c", "1", arch, "")
	if err := newest(strings.NewReader(index), arch, map[string]bool{"a": true, "b": true}, found); err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 || found["a"].Version != "1.10" || found["b"].Path != "pool/b.deb" {
		t.Errorf("got %+v, want 2 of them, version %q and path %q", found, "1.10", "pool/b.deb")
	}
	for _, c := range [][2]string{
		{"Filename: pool/a.deb", "Filename: ../../etc/shadow"}, {"Filename: pool/a.deb", "Filename: /etc/shadow"}, {"Filename: pool/a.deb", "Filename: a b"},
		{"Size: 1", "Size: -1"}, {"Size: 1", "Size: 99999999999999"}, {"SHA256: ", "SHA512: "}, {"Version: 1", "Version: 1:a:b_"}, {"Size: 1", "no field"},
	} {
		bad := strings.Replace(entry("a", "1", arch, ""), c[0], c[1], 1)
		if err := newest(strings.NewReader(bad), arch, map[string]bool{"a": true}, map[string]Package{}); err == nil {
			t.Errorf("%q is taken", c[1])
		}
	}
}

// FuzzRelease: any input in place of a release is an error, unless it is signed.
func FuzzRelease(f *testing.F) {
	then := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := signer(f, then, 0)
	keys, err := ReadKeys(public(f, true, e))
	if err != nil {
		f.Fatal(err)
	}
	signed := sign(f, releaseText(nil), then, e)
	var detached bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&detached, e, strings.NewReader(releaseText(nil)), &packet.Config{Time: func() time.Time { return then }}); err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(detached.Bytes())
	f.Add([]byte("Types: deb\nURIs: https://h/\nSuites: s\nComponents: c\nSigned-By: /k\n"))
	f.Add([]byte(releaseText(nil)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if text, err := verify(data, keys, then.AddDate(0, 1, 0)); err == nil && string(text) != releaseText(nil) {
			t.Errorf("accepted %q, want only the signed text", text)
		}
		if err := verifyDetached([]byte("another release"), data, keys, then.AddDate(0, 1, 0)); err == nil {
			t.Errorf("accepted %q; want an error", data)
		}
		_, _, _, _ = ParseSources(data)
		_, _ = parseRelease(data)
		_, _ = ReadKeys(data)
	})
}

// FuzzIndex: a list of packages is an error or yields usable paths.
func FuzzIndex(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nArchitecture: all\nFilename: pool/a.deb\nSize: 1\nSHA256: " + hash + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		found := map[string]Package{}
		if newest(strings.NewReader(text), "amd64", map[string]bool{"a": true}, found) != nil {
			return
		}
		for _, p := range found {
			if strings.HasPrefix(p.Path, "/") || strings.Contains("/"+p.Path+"/", "/../") || p.Size <= 0 {
				t.Errorf("accepted %+v, want a relative path without \"..\" and a size above 0", p)
			}
		}
	})
}
