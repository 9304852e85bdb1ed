package notify

import "reflect"

// showList shows n, the notice about all entries of a list. With fresh it alerts, unless the
// user must not be disturbed, and showList returns true; else it only changes the notice that
// is up, which may be nil.
func (c *Core) showList(up **Notice, n Notice, fresh bool) (alerted bool) {
	switch {
	case fresh && !c.quiet():
		n.Alert = true
	case *up == nil:
		return false
	default:
		n.Serial, n.Alert = (*up).Serial, (*up).Alert
		if reflect.DeepEqual(n, **up) {
			return false
		}
		n.Alert = false
	}
	c.serial++
	n.Serial = c.serial
	*up = &n
	c.do(Show{n})
	return n.Alert
}

// takeList takes the notice about a list down.
func (c *Core) takeList(up **Notice, key string) {
	if *up != nil {
		*up = nil
		c.do(Close{Instance: key})
	}
}
