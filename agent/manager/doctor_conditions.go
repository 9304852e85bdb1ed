package manager

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lull/lull/agent/conditions"
	"github.com/lull/lull/policy"
)

// checkConditions says what is known of what policy can require. What is required and
// cannot be told counts as fulfilled, which is worth knowing.
func (m *Manager) checkConditions(add func(name, state, seen, advice string)) {
	s := m.Conditions()
	seen := fmt.Sprintf("power: %s, network: %s, sessions: %s", s.Power, s.Network, s.Use())
	var missing []string
	for _, c := range []struct {
		condition policy.Condition
		unknown   bool
		from      string
	}{
		{policy.Mains, s.Power == conditions.Unknown, "UPower"},
		{policy.Unmetered, s.Network == conditions.Unknown, "NetworkManager"},
		{policy.Idle, s.Use() == conditions.Unknown, "logind"},
	} {
		if c.unknown && m.requires(c.condition) {
			missing = append(missing, fmt.Sprintf("%s (from %s)", c.condition, c.from))
		}
	}
	if len(missing) > 0 {
		seen += "; policy requires what cannot be told and so counts as fulfilled: " + strings.Join(missing, ", ")
	}
	add("conditions", checkOK, seen, "")
}

// requires says whether any package's policy has a condition.
func (m *Manager) requires(c policy.Condition) bool {
	p := m.Policy()
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
