//go:build notick

package main

import (
	"math"
	_ "unsafe" // for go:linkname
)

// The runtime wakes up once a minute to see whether it has not collected garbage
// for two minutes, and collects then. An agent that rests has no garbage (see
// the package footprint), and idle is to mean no wake-ups. There is no setting
// for this; the programs that are installed are linked with -checklinkname=0.
//
//go:linkname forcegcperiod runtime.forcegcperiod
var forcegcperiod int64

func init() { forcegcperiod = math.MaxInt64 }
