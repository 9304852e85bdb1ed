package userd

import (
	"context"

	"github.com/lull/lull/agent/lib/wallclock"
	"github.com/lull/lull/userd/notify"
)

// edges are where effects go. None of them blocks.
type edges struct {
	agent    func(notify.Effect) // notify.Ask, notify.Answer, notify.PutOff, notify.Follow
	desktop  func(any)           // notify.Show, notify.Close
	present  func(yes bool)      // the agent has come or gone
	quit     func(notify.Pending)
	offered  func() // has LogOutOffered sent
	logOut   func()
	hook     func(notify.Pending)
	launch   func(instance string)
	forget   func(instance string)
	remember func(map[string]notify.Memory)
}

// loop feeds the core with events and with the time, until the context ends.
func loop(ctx context.Context, core *notify.Core, events <-chan notify.Event, newAlarm func() wallclock.Alarm, e edges) {
	alarm := newAlarm()
	defer alarm.Close()
	for {
		var event notify.Event
		select {
		case <-ctx.Done():
			return
		case event = <-events:
		case <-alarm.C():
			event = notify.Tick{}
		}
		switch event.(type) {
		case notify.AgentUp:
			e.present(true)
		case notify.AgentDown:
			e.present(false)
		}
		now := wallclock.Now()
		core.Zone = now.Location() // it may have changed
		for _, effect := range core.Step(now, event) {
			switch f := effect.(type) {
			case notify.Ask, notify.Answer, notify.PutOff, notify.Follow:
				if _, ask := f.(notify.Ask); ask {
					e.offered()
				}
				e.agent(f)
			case notify.AskToLogOut:
				e.logOut()
			case notify.Show, notify.Close:
				e.desktop(f)
			case notify.Quit:
				e.quit(f.Pending)
			case notify.RunHook:
				e.hook(f.Pending)
			case notify.Launch:
				e.launch(f.Instance)
			case notify.Forget:
				e.forget(f.Instance)
			case notify.Remember:
				e.remember(f.Memory)
			case notify.Wake:
				alarm.Set(f.At)
			}
		}
	}
}
