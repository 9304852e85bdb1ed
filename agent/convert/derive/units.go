package derive

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/manifest"
)

// maxServices bounds the derived services.
const maxServices = 20

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	userName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	signalName  = regexp.MustCompile(`^SIG(TERM|INT|QUIT|HUP|USR1|USR2|WINCH|KILL)$`)
)

// unit has the keys of a unit file (systemd.syntax(7)): "Section.Key" → values. An empty value
// drops the earlier ones.
type unit map[string][]string

func parseUnit(content []byte) unit {
	u := unit{}
	section := ""
	text := strings.ReplaceAll(string(content), "\\\n", " ")
	for l := range strings.SplitSeq(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' || l[0] == ';' {
			continue
		}
		if l[0] == '[' {
			section = strings.Trim(l, "[]")
			continue
		}
		key, value, _ := strings.Cut(l, "=")
		key, value = section+"."+strings.TrimSpace(key), strings.TrimSpace(value)
		if value == "" {
			delete(u, key)
			continue
		}
		u[key] = append(u[key], value)
	}
	return u
}

// last returns the last value of a key of the section Service.
func (u unit) last(key string) string {
	if v := u["Service."+key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// units makes services from the units that the package starts by itself. A unit with a
// property that a service of a package cannot have is left out.
func (d *deriver) units() {
	for scope, dir := range map[string]string{manifest.ScopeSystem: "lib/systemd/system", manifest.ScopeUser: "lib/systemd/user"} {
		for _, p := range d.files(dir, ".service") {
			u := parseUnit(d.tree.Resolve(p).Kept)
			if u.last("Type") == "dbus" && scope == manifest.ScopeUser {
				continue // the session bus starts it
			}
			s, err := d.service(strings.TrimSuffix(path.Base(p), ".service"), scope, u)
			switch {
			case err != nil:
				d.tree.Remark("%s: no service is made of this unit: %s", p, err)
			case len(d.services) == maxServices:
				d.tree.Remark("%s: no service is made of this unit: the package has more than %d", p, maxServices)
			default:
				d.services = append(d.services, s)
			}
		}
	}
	slices.SortFunc(d.services, func(a, b manifest.Service) int { return strings.Compare(a.Name, b.Name) })
}

// unsupported are keys of units that change what a service does.
var unsupported = []string{"Environment", "EnvironmentFile", "ExecStartPre", "ExecStartPost", "ExecStop", "DynamicUser", "WorkingDirectory",
	"RootDirectory", "PIDFile", "Sockets", "StateDirectory", "RuntimeDirectory", "CacheDirectory", "ConfigurationDirectory", "SupplementaryGroups", "AmbientCapabilities", "CapabilityBoundingSet"}

// service makes a service from a unit.
func (d *deriver) service(name, scope string, u unit) (s manifest.Service, err error) {
	s = manifest.Service{Name: name}
	if scope == manifest.ScopeUser {
		s.Scope = scope
	}
	if !serviceName.MatchString(name) {
		return s, fmt.Errorf("%.80q cannot be the name of a service", name)
	}
	if slices.ContainsFunc(d.services, func(o manifest.Service) bool { return o.Name == name }) {
		return s, errors.New("there is another service of that name")
	}
	if u["Install.WantedBy"] == nil && u["Install.RequiredBy"] == nil {
		return s, errors.New("it is not started by itself")
	}
	for _, key := range unsupported {
		if u.last(key) != "" {
			return s, fmt.Errorf("it has the key %s", key)
		}
	}
	switch t := u.last("Type"); t {
	case "", "simple", "exec":
	case "notify":
		s.Ready = manifest.ReadyNotify
	default:
		return s, fmt.Errorf("its Type is %.40q", t)
	}
	starts := u["Service.ExecStart"]
	if len(starts) != 1 {
		return s, fmt.Errorf("it has %d commands", len(starts))
	}
	if strings.ContainsAny(starts[0], `"'\$%;`) {
		return s, errors.New("its ExecStart has quotes, variables or specifiers")
	}
	words := strings.Fields(starts[0])
	program := d.find(words[0])
	if program == "" {
		return s, fmt.Errorf("its program %.200q is not in the package", words[0])
	}
	s.Command = append([]string{program}, words[1:]...)
	if s.User = u.last("User"); s.User == "root" {
		s.User = ""
	}
	if s.User != "" && (!userName.MatchString(s.User) || scope == manifest.ScopeUser) {
		return s, fmt.Errorf("its User is %.80q", s.User)
	}
	if s.StopSignal = u.last("KillSignal"); s.StopSignal != "" && !signalName.MatchString(s.StopSignal) {
		return s, fmt.Errorf("its KillSignal is %.40q", s.StopSignal)
	}
	if t := u.last("TimeoutStopSec"); t != "" {
		d, err := stopTime(t)
		if err != nil {
			return s, err
		}
		s.StopTimeout = manifest.Duration(d)
	}
	return s, nil
}

// stopTime reads a number of seconds, or a number with a unit (systemd.time(7)).
func stopTime(t string) (time.Duration, error) {
	if _, err := strconv.ParseUint(t, 10, 32); err == nil {
		t += "s"
	}
	d, err := time.ParseDuration(strings.NewReplacer("sec", "s", "min", "m", " ", "").Replace(t))
	if err != nil || d <= 0 || d > time.Hour {
		return 0, fmt.Errorf("its TimeoutStopSec is %.40q", t)
	}
	return d, nil
}
