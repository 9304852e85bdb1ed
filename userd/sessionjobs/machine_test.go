package sessionjobs

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// script feeds a machine and writes down what it wants.
type script struct {
	m   Machine
	did []string
}

var actions = map[Action]string{Stop: "stop", Start: "start", CopyAhead: "ahead", Migrate: "bring", Discard: "discard"}

func (s *script) step(ev Event) {
	for _, e := range s.m.Step(ev) {
		switch e := e.(type) {
		case Run:
			s.did = append(s.did, fmt.Sprintf("%s %d", actions[e.Do], e.To))
		case Cancel:
			s.did = append(s.did, fmt.Sprintf("cancel %d", e.Lane))
		case Done:
			text := "done " + e.Phase
			if e.Err != nil {
				text += ": " + e.Err.Error()
			}
			s.did = append(s.did, text)
		}
	}
}

// give gives "phase to [sd]": with services, with data. "!s" and "!d" end the job
// of a lane, with an error behind it if there is one.
func (s *script) play(text string) {
	for _, line := range strings.Split(text, ",") {
		f := strings.Fields(line)
		switch f[0] {
		case "!s", "!d":
			ev := Ended{Lane: ServicesLane}
			if f[0] == "!d" {
				ev.Lane = DataLane
			}
			if len(f) > 1 {
				ev.Err = map[string]error{"bad": errors.New("bad"), "full": fmt.Errorf("no: %w", syscall.EDQUOT)}[f[1]]
			}
			s.step(ev)
		default:
			o := Order{Phase: f[0], ID: "r" + f[1]}
			fmt.Sscan(f[1], &o.To)
			if o.Phase == Session {
				o.ID = ""
			}
			if len(f) > 2 && strings.Contains(f[2], "s") {
				o.Services = []Service{{Name: "x"}}
			}
			o.Data = len(f) > 2 && strings.Contains(f[2], "d")
			s.step(Given{o})
		}
	}
}

func TestMachine(t *testing.T) {
	for _, c := range []struct{ name, play, want string }{
		{"a whole refresh", "precopy 2 d,!d,enter 2 sd,!s,!d,finish 2 sd,!d,!s",
			"ahead 2,done precopy,stop 2,done enter,ahead 2,bring 2,start 2,done finish"},
		{"data alone: nobody waits", "precopy 2 d,!d,enter 2 d,!d,finish 2 d,!d", "ahead 2,done precopy,done enter,ahead 2,bring 2,done finish"},
		{"services alone", "enter 2 s,!s,finish 2 s,!s", "stop 2,done enter,start 2,done finish"},
		{"nothing to do", "enter 2", "done enter"},
		{"a slow precopy goes on through the section", "precopy 2 d,enter 2 sd,!s,finish 2 sd,!d,!d,!s",
			"ahead 2,stop 2,done enter,done precopy,bring 2,start 2,done finish"},
		{"undone and tried again", "precopy 2 d,!d,enter 2 sd,!s,undo 2 s,!s,!d,enter 2 sd,!s,!d,finish 2 sd,!d,!s",
			"ahead 2,done precopy,stop 2,done enter,ahead 2,start 2,done undo,stop 2,done enter,ahead 2,bring 2,start 2,done finish"},
		{"the agent is faster than systemd", "enter 2 sd,undo 2 s,abandon 2 d,!s,!d,!s", "stop 2,discard 2,done enter,start 2,done abandon,done undo"},
		{"and so it is with a success", "enter 2 sd,finish 2 sd,!s,!d,!s", "stop 2,bring 2,done enter,start 2,done finish"},
		{"undo waits for the stop", "enter 2 s,undo 2 s,!s,!s", "stop 2,done enter,start 2,done undo"},
		{"given up", "precopy 2 d,abandon 2 d,!d,!d", "ahead 2,cancel 1,discard 2,done abandon"},
		{"a start under way is broken off", "session 1 s,enter 2 s,!s bad,!s", "start 1,cancel 0,stop 2,done enter"},
		{"nothing is finished for a revision that may go", "finish 2 sd,enter 3 d,!d bad,!d", "bring 2,cancel 1,done enter,ahead 3"},
		{"nor for the one of a session", "session 2 sd,enter 3 s,!s,!d bad", "bring 2,cancel 1,stop 3,done enter"},
		{"the next precopy waits for the last copy", "finish 2 d,precopy 3 d,!d,!d", "bring 2,done finish,ahead 3,done precopy"},
		{"full: tried once ahead, and at the end", "precopy 2 d,!d full,enter 2 d,finish 2 sd,!d full",
			"ahead 2,done precopy: no: disk quota exceeded,done enter,bring 2,done finish: no: disk quota exceeded"},
		{"full: the next revision has another chance", "precopy 2 d,!d full,precopy 3 d,!d", "ahead 2,done precopy: no: disk quota exceeded,ahead 3,done precopy"},
		{"services that do not stop", "enter 2 sd,!s bad,!d", "stop 2,done enter: bad,ahead 2"},
		{"no data, no services", "finish 2 sd,!d bad", "bring 2,done finish: bad"},
		{"told twice", "enter 2 s,enter 2 s,enter 2 s,!s,!s", "stop 2,done enter,stop 2,done enter"},
		{"a younger agent", "dance 2", "done dance: this helper does not support the phase dance"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s script
			s.play(c.play)
			if got := strings.Join(s.did, ","); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
