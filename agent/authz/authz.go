// Package authz decides whether a caller on the bus may change the system.
// Root may, and so may the agent's own user; all others are a question to
// polkit, and without polkit the answer is no.
//
// An Authorizer has no state and may be used from any goroutine. Check blocks
// while polkit asks the user for a password.
package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
)

// The actions, as org.lull.policy declares them.
const (
	Install      = "org.lull.install"       // install and remove packages
	InstallFile  = "org.lull.install-file"  // install packages of files that the caller sends
	Resolve      = "org.lull.resolve"       // fetch packages without installing them
	Refresh      = "org.lull.refresh"       // refresh, check
	Revert       = "org.lull.revert"        // go back to an earlier revision, cancel a refresh
	Hold         = "org.lull.hold"          // hold, for as long as policy lets users
	HoldOthers   = "org.lull.hold-others"   // hold for longer, and end the holds of others
	GC           = "org.lull.gc"            // collect, verify, repair
	SystemUpdate = "org.lull.system-update" // system updates, the retained index
	Configure    = "org.lull.configure"     // repositories, reload
)

// what has a description of each action.
var what = map[string]string{
	Install:      errkind.Mark("install or remove packages"),
	InstallFile:  errkind.Mark("install packages from files"),
	Resolve:      errkind.Mark("fetch packages"),
	Refresh:      errkind.Mark("refresh packages"),
	Revert:       errkind.Mark("revert packages or cancel refreshes"),
	Hold:         errkind.Mark("hold refreshes"),
	HoldOthers:   errkind.Mark("hold refreshes for long, or end the holds of others"),
	GC:           errkind.Mark("collect or verify the store"),
	SystemUpdate: errkind.Mark("update the system"),
	Configure:    errkind.Mark("change repositories or reload the configuration"),
}

// Actions returns all actions.
func Actions() []string {
	return []string{Install, InstallFile, Resolve, Refresh, Revert, Hold, HoldOthers, GC, SystemUpdate, Configure}
}

const (
	polkitName   = "org.freedesktop.PolicyKit1"
	polkitPath   = dbus.ObjectPath("/org/freedesktop/PolicyKit1/Authority")
	polkitMethod = "org.freedesktop.PolicyKit1.Authority.CheckAuthorization"

	polkitEnumerate = "org.freedesktop.PolicyKit1.Authority.EnumerateActions"

	allowUserInteraction = uint32(1)

	// answerTime is how long polkit may take by itself, and typingTime how
	// long with a password to be typed.
	answerTime = 30 * time.Second
	typingTime = 5 * time.Minute
)

// Authorizer answers for the agent.
type Authorizer struct {
	conn *dbus.Conn
	uid  uint32
}

// New makes one that asks the polkit on conn; uid is the agent's own user. The
// callers must be on the same bus.
func New(conn *dbus.Conn, uid uint32) *Authorizer { return &Authorizer{conn: conn, uid: uid} }

// Administrator reports whether a user may do everything: root, and the agent's own.
func (a *Authorizer) Administrator(uid uint32) bool { return uid == 0 || uid == a.uid }

// Check returns nil if the caller may do the action, and otherwise an error of
// kind NotPermitted that names the caller and the action.
func (a *Authorizer) Check(c bus.Caller, action string) error {
	uid, err := c.UID()
	if err != nil {
		return err
	}
	if a.Administrator(uid) {
		return nil
	}
	answer, err := a.ask(c, action)
	who := accounts.Name(uid)
	switch {
	case err != nil && absent(err):
		return errkind.New(errkind.NotPermitted, "cannot %s: user %s is not permitted to; only root is, as polkit is not running", words(action), who).
			WithHint("use sudo, or install polkit")
	case err != nil:
		return errkind.New(errkind.NotPermitted, "cannot %s as user %s: polkit does not answer: %w", words(action), who, err).
			WithHint("use sudo")
	case answer.Authorized:
		return nil
	case answer.Challenge && !c.Interactive:
		return errkind.New(errkind.NotPermitted, "cannot %s as user %s: it needs a password, and the caller cannot be asked for one", words(action), who).
			WithHint("use sudo")
	case answer.Challenge:
		return errkind.New(errkind.NotPermitted, "cannot %s as user %s: it needs a password, and none was given", words(action), who).
			WithHint("use sudo, or run a polkit agent in the session (on a terminal: pkttyagent)")
	}
	return errkind.New(errkind.NotPermitted, "cannot %s as user %s: the system does not allow it (%s)", words(action), who, action).
		WithHint("use sudo, or ask the administrator")
}

// subject names a connection on the bus to polkit.
type subject struct {
	Kind    string
	Details map[string]dbus.Variant
}

// answer is polkit's result.
type answer struct {
	Authorized bool
	Challenge  bool
	Details    map[string]string
}

func (a *Authorizer) ask(c bus.Caller, action string) (answer, error) {
	wait, flags := answerTime, uint32(0)
	if c.Interactive {
		wait, flags = typingTime, allowUserInteraction
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var ans answer
	// polkit gives up by itself when the subject leaves the bus.
	err := a.conn.Object(polkitName, polkitPath).CallWithContext(ctx, polkitMethod, 0,
		subject{"system-bus-name", map[string]dbus.Variant{"name": dbus.MakeVariant(c.Sender)}},
		action, map[string]string{}, flags, "").Store(&ans)
	return ans, err
}

// Unknown returns the actions that polkit does not have, because their file is
// missing. It is an error if polkit does not answer.
func (a *Authorizer) Unknown(ctx context.Context) ([]string, error) {
	var list []struct {
		ID, Description, Message, VendorName, VendorURL, Icon string
		Any, Inactive, Active                                 uint32
		Annotations                                           map[string]string
	}
	err := a.conn.Object(polkitName, polkitPath).CallWithContext(ctx, polkitEnumerate, 0, "").Store(&list)
	if err != nil && absent(err) {
		return nil, errkind.New(errkind.Unavailable, "is not running: root alone may change something").WithHint("install polkit, or use sudo")
	}
	if err != nil {
		return nil, errkind.New(errkind.Unavailable, "does not answer: %w", err).WithHint("see `systemctl status polkit`; until then root alone may change something")
	}
	unknown := Actions()
	for _, known := range list {
		unknown = slices.DeleteFunc(unknown, func(action string) bool { return action == known.ID })
	}
	return unknown, nil
}

// absent reports whether err means that there is no polkit at all.
func absent(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return true
	}
	return false
}

// deed is what an action permits.
type deed string

// Word implements errkind.Word.
func (d deed) Word() string { return string(d) }

func words(action string) deed {
	if w, ok := what[action]; ok {
		return deed(w)
	}
	return deed(fmt.Sprintf("do %q", action))
}
