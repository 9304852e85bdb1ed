package launch

import (
	"strings"
	"testing"
)

// TestGerman: what a launch prints is in the language of its user, also the reason and the
// hint; an unknown language and C are English.
func TestGerman(t *testing.T) {
	for _, k := range []struct{ locale, name, want string }{
		{"de_DE.UTF-8", "org.lull.none", "lull: org.lull.none kann nicht starten: es ist nicht installiert\nHinweis: lull list zeigt, was installiert ist; lull install org.lull.none installiert es\n"},
		{"de_DE.UTF-8", app, "lull: " + app + " kann nicht starten: "},
		{"de_DE.UTF-8", app, ": sein Interpreter /opt/none/python3 ist nicht da: "},
		{"de_DE.UTF-8", app, "\nHinweis: installieren Sie, was /opt/none/python3 enthält; oder wer das Programm packt, muss es mitliefern\n"},
		{"xx_XX.UTF-8", app, "\nhint: install what has /opt/none/python3"},
		{"en_GB.UTF-8", app, "\nhint: install what has /opt/none/python3"},
		{"C", app, "\nhint: install what has /opt/none/python3"},
	} {
		w := newWorld(t)
		w.untracked()
		w.program(1, []byte("#!/opt/none/python3 -u\n"))
		w.env = append(w.env, "LC_ALL="+k.locale)
		if r := w.run(k.name); r.code == 0 || !strings.Contains(r.stderr, k.want) {
			t.Errorf("%s: status %d, without %q: %s", k.locale, r.code, k.want, r.stderr)
		}
	}
}
