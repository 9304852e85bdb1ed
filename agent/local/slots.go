package local

import (
	"context"
	"fmt"
	"os"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/units"
)

// conversions is how many conversions run at a time.
const conversions = 2

// Slots convert files, a few at a time. A conversion takes a slot.
type Slots struct {
	store *Store
	units bool // converters are units of systemd
	free  chan int
}

// NewSlots returns the slots of a store. user is set for a user's own agent, whose converters
// are its children.
func NewSlots(store *Store, user bool) *Slots {
	s := &Slots{store: store, units: !user && units.Booted(), free: make(chan int, conversions)}
	for i := range conversions {
		s.free <- i
	}
	return s
}

// Convert makes a source of files, in a slot. It waits for one until ctx ends.
func (s *Slots) Convert(ctx context.Context, inputs []Input, o Options) (*Source, error) {
	select {
	case slot := <-s.free:
		defer func() { s.free <- slot }()
		l := *s.store
		if s.units {
			l.Confine = confined(slot)
		}
		return l.Convert(ctx, inputs, o)
	case <-ctx.Done():
		return nil, errkind.New(errkind.Interrupted, "cannot convert files: %w", context.Cause(ctx))
	}
}

func converterUnit(slot int) string { return fmt.Sprintf("lull-convert-%d.service", slot) }

// confined starts the converter as a unit: the sandbox of the agent's own unit prevents it
// from changing the user of a child.
func confined(slot int) func(string) convert.Start {
	return func(root string) convert.Start {
		return func(ctx context.Context, argv []string, in, out, errs *os.File) error {
			systemd := units.System()
			defer systemd.Close()
			return systemd.Run(ctx, units.Program{Name: converterUnit(slot), Description: "Conversion of a file for lull", Command: argv,
				Input: in, Output: out, Errors: errs, Root: root})
		}
	}
}

// End ends the converters of an agent that was killed.
func (s *Slots) End(ctx context.Context) error {
	if !s.units {
		return nil
	}
	systemd := units.System()
	defer systemd.Close()
	for slot := range conversions {
		if err := systemd.Kill(ctx, converterUnit(slot)); err != nil {
			return err
		}
	}
	return nil
}
