package conditions

import "github.com/lull/lull/agent/lib/errkind"

// Word implements errkind.Word.
func (p Power) Word() string { return word(string(p)) }

// Word implements errkind.Word.
func (n Network) Word() string { return word(string(n)) }

// Word implements errkind.Word.
func (u Use) Word() string { return word(string(u)) }

func word(state string) string {
	switch state {
	case string(OnMains):
		return errkind.Mark("mains")
	case string(OnBattery):
		return errkind.Mark("battery")
	case string(Unmetered):
		return errkind.Mark("unmetered")
	case string(Metered):
		return errkind.Mark("metered")
	case string(IdleNow):
		return errkind.Mark("idle")
	case string(InUse):
		return errkind.Mark("in-use")
	case Unknown:
		return errkind.Mark("unknown")
	}
	return state
}
