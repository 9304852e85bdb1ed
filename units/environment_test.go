package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

// TestEnvironment: systemd and the shells of log-ins put the same directories of both agents
// behind those of the system, once.
func TestEnvironment(t *testing.T) {
	const generator = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"
	require.Program(t, "dash", "bash", generator)
	home := filepath.Join(t.TempDir(), "a home")
	config := filepath.Join(home, ".config/environment.d")
	if err := os.MkdirAll(config, 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile("60-lull.environment.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "60-lull.conf"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "lull"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	const print = "printf 'PATH=%s\\nXDG_DATA_DIRS=%s\\nXDG_CONFIG_DIRS=%s\\n' \"$PATH\" \"$XDG_DATA_DIRS\" \"$XDG_CONFIG_DIRS\""
	for state, user := range map[string]string{"": home + "/.local/state/lull/exports", "/s": "/s/lull/exports"} {
		for _, argv := range [][]string{{generator}, {"dash", "-c", ". ./lull.profile.sh; . ./lull.profile.sh; " + print}, {"bash", "-c", ". ./lull.profile.sh; " + print}} {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = []string{"PATH=" + bin, "HOME=" + home}
			if state != "" {
				cmd.Env = append(cmd.Env, "XDG_STATE_HOME="+state)
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%q: %v\n%s", argv, err, out)
			}
			lines := "\n" + strings.ReplaceAll(string(out), `\ `, " ")
			for name, dirs := range map[string][2]string{"PATH": {bin, "bin"}, "XDG_DATA_DIRS": {"/usr/local/share:/usr/share", "share"}, "XDG_CONFIG_DIRS": {"/etc/xdg", "etc/xdg"}} {
				want := "\n" + name + "=" + dirs[0] + ":/var/lib/lull/exports/" + dirs[1] + ":" + user + "/" + dirs[1] + "\n"
				if !strings.Contains(strings.NewReplacer("'", "", `"`, "", "$", "").Replace(lines), want) {
					t.Errorf("%s has%swant%s", argv[0], lines, want)
				}
			}
		}
	}

	// The file is lull's configuration, which a removal of its package leaves behind.
	for _, shell := range []string{"dash", "bash"} {
		cmd := exec.Command(shell, "-euc", ". ./lull.profile.sh; echo \"$PATH ${XDG_DATA_DIRS-unset} ${XDG_CONFIG_DIRS-unset}\"")
		cmd.Env = []string{"PATH=/nonexistent", "HOME=" + home}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "/nonexistent unset unset\n" {
			t.Errorf("%s without lull: got %q (%v), want \"/nonexistent unset unset\\n\"", shell, out, err)
		}
	}
}
