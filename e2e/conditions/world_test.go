package conditions_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	app   = "org.lull.conditions"
	limit = 30 * time.Second
)

// scene is a laptop in the hands of ann: version 1 of the package is installed.
type scene struct {
	*rig.Scene
	power   *bustest.Mock
	network *bustest.Mock
	logind  *bustest.Mock
	ann     dbus.ObjectPath // her session
}

func set(t *testing.T, policy string) *scene {
	t.Helper()
	require.Root(t)
	require.Program(t, "dbus-daemon", "setpriv")
	s := &scene{Scene: rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll"}, Policy: policy, Auto: true})}
	s.power = bustest.StartMock(t, s.Bus.Address, "upower", bustest.UPower)
	s.network = bustest.StartMock(t, s.Bus.Address, "networkmanager", bustest.NetworkManager)
	s.network.Metered(4)
	s.logind = bustest.StartMock(t, s.Bus.Address, "logind", bustest.Logind)
	s.ann = s.logind.AddSession("1", uint32(s.User.UID), "ann", map[string]any{"Type": "wayland"})
	s.publish(s.Repo, app, "1")
	s.Begin()
	s.MustLull("install", app)
	return s
}

// publish makes a version of a package; the application stays until it is ended.
func (s *scene) publish(repo, name, version string) {
	s.Helper()
	dir := s.Tree(name+"-"+version, map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: waits for conditions\napps: [{name: app, command: bin/app}]\n", name, version),
		"bin/app":   "#!/bin/sh\n# " + version + "\nexec sleep infinity\n",
	})
	s.MustLull("publish", "--repo", repo, dir)
}

// untilWaits waits until the refresh to a version waits in a step for these conditions
// and no others, and returns its id.
func (s *scene) untilWaits(name, version, step string, conditions ...string) string {
	s.Helper()
	var id string
	s.Until(fmt.Sprintf("%s %s waits at %s for %v", name, version, step, conditions), limit, func() (bool, string) {
		o, ok := s.API.Refresh(name, version)
		unmet, _ := o.Props["Conditions"].Value().(map[string]string)
		same := len(unmet) == len(conditions)
		for _, c := range conditions {
			same = same && unmet[c] != ""
		}
		id = o.Str("Id")
		return ok && same && o.Str("State") == "waiting" && o.Str("Step") == step, fmt.Sprint(o.Str("State"), " at ", o.Str("Step"), " for ", unmet, " ", o.Str("ErrorText"))
	})
	return id
}

// says checks the output of commands about waiting refreshes.
func (s *scene) says(want string, args ...string) {
	s.Helper()
	r := s.Lull(args...)
	if r.Code != 0 || !strings.Contains(strings.Join(strings.Fields(r.Stdout), " "), want) {
		s.Errorf("it does not say %q: %v", want, r)
	}
}

// untilKnown waits until a property of the agent has a value.
func (s *scene) untilKnown(property, want string) {
	s.Helper()
	s.Until(property+" is "+want, limit, func() (bool, string) {
		v, _ := s.API.Property("", "Manager."+property).(string)
		return v == want, v
	})
}
