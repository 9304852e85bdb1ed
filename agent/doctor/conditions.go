package doctor

import (
	"slices"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/policy"
)

// checkConditions reports what is known of the conditions that policy can require.
func (d *Doctor) checkConditions(add func(name, state, seen, advice string)) {
	s := d.Conditions()
	seen := errkind.Text("power: %s, network: %s, sessions: %s", s.Power, s.Network, s.Use())
	if d.requires(policy.Mains) && s.Power == conditions.Unknown || d.requires(policy.Unmetered) && s.Network == conditions.Unknown ||
		d.requires(policy.Idle) && s.Use() == conditions.Unknown {
		seen = errkind.Text("%s; what is unknown keeps no refresh waiting", seen)
	}
	add("conditions", OK, seen, "")
}

// requires reports whether any package's policy has a condition.
func (d *Doctor) requires(c policy.Condition) bool {
	p := d.Policy()
	has := func(s policy.Settings) bool {
		return slices.Contains(s.FetchRequires, c) || slices.Contains(s.RefreshRequires, c)
	}
	for _, s := range p.Instances() {
		if has(s) {
			return true
		}
	}
	return has(p.For(""))
}
