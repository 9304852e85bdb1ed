package rig

import (
	"os"
	"path/filepath"
	"time"
)

// polkitScript shows polkit the actions in $1 and the rules in $2 and no others.
const polkitScript = `set -e
mount --bind "$1" /usr/share/polkit-1/actions
mkdir -p /etc/polkit-1/rules.d
mount --bind "$2" /etc/polkit-1/rules.d
mount -t tmpfs -o mode=0755 lull-polkit /usr/share/polkit-1/rules.d
exec /usr/lib/polkit-1/polkitd --no-debug
`

const polkitName = "org.freedesktop.PolicyKit1"

// StartPolkit starts a real polkitd on the world's bus, with lull's actions and
// with rules (JavaScript; "" for none). It has no user who could type a password.
func (w *World) StartPolkit(rules string) *Proc {
	w.Helper()
	actions, dir := w.folder("polkit-actions", 0o755), w.folder("polkit-rules", 0o755)
	b, err := os.ReadFile(filepath.Join(Module(), "policy", "org.lull.policy"))
	if err == nil {
		err = os.WriteFile(filepath.Join(actions, "org.lull.policy"), b, 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "50-test.rules"), []byte(rules), 0o644)
	}
	if err != nil {
		w.Fatalf("cannot start polkit: %v", err)
	}
	conn := w.Bus.Connect()
	cmd := w.Admin.Command("unshare", "--mount", "--propagation=private", "--", "sh", "-c", polkitScript, "sh", actions, dir)
	cmd.Env = append(cmd.Env, "DBUS_SYSTEM_BUS_ADDRESS="+w.Bus.Address)
	p := start(w, w.Path("log"), "polkitd", cmd)
	w.Until("polkit is on the bus", 20*time.Second, func() (bool, string) {
		var has bool
		err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, polkitName).Store(&has)
		if err != nil || p.Ended() {
			w.Fatalf("cannot start polkit: %v\n%s", err, tail(p.Log(), 20))
		}
		return has, tail(p.Log(), 20)
	})
	return p
}
