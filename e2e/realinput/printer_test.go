package realinput_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// printer is a CUPS of the world's own, with one printer that keeps what is printed.
type printer struct {
	w     *rig.World
	spool string
}

// startPrinter starts CUPS. Programs of the user find it by CUPS_SERVER.
func startPrinter(t *testing.T, w *rig.World) *printer {
	t.Helper()
	dir := w.Path("cups")
	socket := filepath.Join(dir, "cups.sock")
	for name, text := range map[string]string{
		"cupsd.conf": "Listen " + socket + "\nLogLevel warn\nBrowsing No\nDefaultAuthType None\nPreserveJobFiles Yes\n" +
			"<Location />\nOrder allow,deny\nAllow all\n</Location>\n<Policy default>\n<Limit All>\nOrder allow,deny\nAllow all\n</Limit>\n</Policy>\n",
		"cups-files.conf": "FileDevice Yes\nServerRoot DIR\nRequestRoot DIR/spool\nTempDir DIR/tmp\nStateDir DIR/state\nCacheDir DIR/cache\n" +
			"AccessLog DIR/access\nErrorLog DIR/error\nPageLog DIR/page\nSystemGroup root\n",
		"spool/.keep": "", "tmp/.keep": "", "state/.keep": "", "cache/.keep": "", "ppd/.keep": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := w.Admin.Start("cupsd", "-f", "-c", filepath.Join(dir, "cupsd.conf"), "-s", filepath.Join(dir, "cups-files.conf"))
	stop := w.Tick(100 * time.Millisecond)
	defer stop()
	w.Until("CUPS answers", limit, func() (bool, string) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false, err.Error() + "\n" + p.Log()
		}
		return conn.Close() == nil, ""
	})
	w.Admin.Must("lpadmin", "-h", socket, "-p", "paper", "-v", "file://"+filepath.Join(dir, "paper"), "-E")
	w.Admin.Must("lpadmin", "-h", socket, "-d", "paper")
	w.User.Env = append(w.User.Env, "CUPS_SERVER="+socket)
	return &printer{w, filepath.Join(dir, "spool")}
}

// untilPrinted waits until a document of a type, by its first bytes, was printed.
func (p *printer) untilPrinted(magic string, again func()) {
	p.w.Helper()
	p.w.Until("a document is printed", limit, func() (bool, string) {
		files, err := filepath.Glob(filepath.Join(p.spool, "d*"))
		if err != nil {
			p.w.Fatalf("%v", err)
		}
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(b), magic) {
				return true, ""
			}
		}
		again()
		return false, strings.Join(files, " ")
	})
}
