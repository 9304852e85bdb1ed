package files_test

import (
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
)

// vendor is an apt repository of the suite stable, behind a server.
type vendor struct {
	t    *testing.T
	dir  string
	home string // of gpg
	url  string

	stalled chan struct{} // gets one for each request that is not answered

	mu     sync.Mutex // guards what follows
	cut    int64      // bytes after which a transfer of a .deb ends; 0 means never
	page   bool       // a web page is the answer to everything
	stall  bool       // a .deb is not answered before the client leaves
	ranges []string   // that requests for .deb files had
}

func newVendor(t *testing.T) *vendor {
	t.Helper()
	require.Program(t, "apt-ftparchive", "gpg", "gpgconf", "dpkg-deb")
	v := &vendor{t: t, dir: t.TempDir(), stalled: make(chan struct{}, 16)}
	home, err := os.MkdirTemp("", "gpg-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	v.home = home
	t.Cleanup(func() {
		v.run("gpgconf", "--homedir", v.home, "--kill", "all") // gpg has started an agent
		if err := os.RemoveAll(v.home); err != nil {
			t.Error(err)
		}
	})
	files := http.FileServer(http.Dir(v.dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		cut, page, stall := v.cut, v.page, v.stall
		if strings.HasSuffix(r.URL.Path, ".deb") {
			v.ranges = append(v.ranges, r.Header.Get("Range"))
		}
		v.mu.Unlock()
		switch {
		case page:
			fmt.Fprint(w, "<html>Log in to the network</html>")
		case stall && strings.HasSuffix(r.URL.Path, ".deb"):
			v.stalled <- struct{}{}
			<-r.Context().Done()
		case cut > 0 && strings.HasSuffix(r.URL.Path, ".deb"):
			files.ServeHTTP(&cutWriter{ResponseWriter: w, left: cut}, r)
		default:
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	v.url = server.URL
	v.key("old")
	return v
}

// cutWriter ends the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) <= c.left {
		c.left -= int64(len(p))
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func (v *vendor) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

func (v *vendor) run(name string, args ...string) []byte {
	v.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = v.dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		v.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, errs.String())
	}
	return out
}

func (v *vendor) gpg(args ...string) []byte {
	v.t.Helper()
	return v.run("gpg", append([]string{"--homedir", v.home, "--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
}

// key makes a signing key and returns the file of its public part.
func (v *vendor) key(name string) string {
	v.t.Helper()
	file := filepath.Join(v.home, name+".asc")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	v.gpg("--quick-generate-key", name+" <"+name+"@example.org>", "ed25519", "sign", "0")
	if err := os.WriteFile(file, v.gpg("--armor", "--export", name), 0o644); err != nil {
		v.t.Fatal(err)
	}
	return file
}

// deb puts a package into the pool: a program that prints its name and version, files by
// path, and a script that must not run.
func (v *vendor) deb(name, version string, more map[string]string) string {
	v.t.Helper()
	tree := v.t.TempDir()
	files := map[string]string{
		"DEBIAN/control":  fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Vendor <vendor@example.org>\nDescription: %s of a vendor\n", name, version, debArch(v.t), name),
		"DEBIAN/postinst": "#!/bin/sh\ntouch " + v.dir + "/ran\n",
		"usr/bin/" + name: fmt.Sprintf("#!/bin/sh\necho %s %s\n[ $# = 0 ] || exec \"$@\"\n", name, version),
	}
	for path, text := range more {
		files[path] = text
	}
	for path, text := range files {
		full := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			v.t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o755); err != nil {
			v.t.Fatal(err)
		}
	}
	to := filepath.Join(v.dir, "pool", name+"_"+strings.ReplaceAll(version, ":", "%3a")+".deb")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		v.t.Fatal(err)
	}
	v.run("dpkg-deb", "--root-owner-group", "--build", tree, to)
	return to
}

func debArch(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// release is how publish signs.
type release struct {
	date  time.Time     // default: now
	valid time.Duration // after date; zero: for ever
	suite string        // default: stable
	keys  []string      // default: old
	// detached puts the signature into Release.gpg, and makes no InRelease.
	detached bool
}

var dateLine = regexp.MustCompile(`(?m)^Date: .*$`)

// publish makes the indices of the pool, and signs them.
func (v *vendor) publish(r release) {
	v.t.Helper()
	if r.date.IsZero() {
		r.date = time.Now()
	}
	if r.suite == "" {
		r.suite = "stable"
	}
	if r.keys == nil {
		r.keys = []string{"old"}
	}
	dir := filepath.Join(v.dir, "dists/stable")
	index := filepath.Join(dir, "main/binary-"+debArch(v.t))
	if err := os.MkdirAll(index, 0o755); err != nil {
		v.t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(index, "Packages.gz"))
	if err != nil {
		v.t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write(v.run("apt-ftparchive", "packages", "pool")); err != nil {
		v.t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		v.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		v.t.Fatal(err)
	}
	for _, old := range []string{"InRelease", "Release", "Release.gpg"} {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			v.t.Fatal(err)
		}
	}
	text := v.run("apt-ftparchive", "-o", "APT::FTPArchive::Release::Suite="+r.suite, "-o", "APT::FTPArchive::Release::Components=main", "release", "dists/stable")
	dates := "Date: " + r.date.UTC().Format(time.RFC1123)
	if r.valid != 0 {
		dates += "\nValid-Until: " + r.date.Add(r.valid).UTC().Format(time.RFC1123)
	}
	text = dateLine.ReplaceAll(text, []byte(dates))
	plain := filepath.Join(dir, "Release")
	if err := os.WriteFile(plain, text, 0o644); err != nil {
		v.t.Fatal(err)
	}
	args := []string{"--clearsign", "--output", filepath.Join(dir, "InRelease")}
	if r.detached {
		args = []string{"--detach-sign", "--armor", "--output", filepath.Join(dir, "Release.gpg")}
	}
	for _, k := range r.keys {
		v.key(k)
		args = append(args, "--local-user", k)
	}
	v.gpg(append(args, plain)...)
}

// line is the source of apt, signed by a key.
func (v *vendor) line(key string) string {
	return fmt.Sprintf("deb [signed-by=%s] %s stable main", v.key(key), v.url)
}
