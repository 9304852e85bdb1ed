package repo_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// timed is an offer of a package with a rollout by time.
func timed(pkg string, steps ...repo.Step) repo.Offer {
	p := *pointer()
	p.Package = digest.Of([]byte(pkg))
	o := repo.Offer{Pointer: p, Steps: steps}
	if len(steps) > 0 {
		o.Start = now
	}
	return o
}

const hour = 3600

func TestOffers(t *testing.T) {
	halted := timed("a")
	halted.Halted = &repo.Halt{At: now, Reason: "3 % of the machines fail"}
	for name, list := range map[string]repo.Offers{
		"one": {timed("a")}, "steps": {timed("b", repo.Step{Percent: 1}, repo.Step{Percent: 100, After: 48 * hour}), timed("a")}, "halted": {halted, timed("b")},
	} {
		data, err := list.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := repo.ParseOffers(data)
		if err != nil || !reflect.DeepEqual(again, list) {
			t.Errorf("%s: got %+v, %v, want %+v", name, again, err, list)
		}
		// A later version may add keys.
		more := strings.Replace(string(data), `"version"`, `"later":{"x":1},"version"`, 1)
		if again, err = repo.ParseOffers([]byte(more)); err != nil || !reflect.DeepEqual(again, list) {
			t.Errorf("%s, with a key of a later version: got %+v, %v; want no error and again %v", name, again, err, list)
		}
	}
}

func TestBadOffers(t *testing.T) {
	other := timed("b")
	other.Name = "org.example.other"
	late := timed("b", repo.Step{Percent: 1})
	late.Start = now.Add(time.Millisecond)
	loud := timed("b")
	loud.Halted = &repo.Halt{At: now, Reason: "\x1b[2J"}
	never := timed("b")
	never.Halted = &repo.Halt{}
	many := make(repo.Offers, repo.MaxOffers+1)
	for i := range many {
		many[i] = timed(fmt.Sprint(i))
	}
	for name, list := range map[string]repo.Offers{
		"none": {}, "too many": many, "of two packages": {timed("a"), other}, "start": {late}, "reason": {loud}, "time": {never},
		"falls": {timed("a", repo.Step{Percent: 10}, repo.Step{Percent: 5, After: 1})}, "back": {timed("a", repo.Step{Percent: 1, After: 5}, repo.Step{Percent: 2, After: 4})},
		"over 100": {timed("a", repo.Step{Percent: 101})}, "negative": {timed("a", repo.Step{Percent: -1})}, "before": {timed("a", repo.Step{Percent: 1, After: -1})},
		"for ever": {timed("a", repo.Step{Percent: 1, After: 1 << 60})}, "too many steps": {timed("a", make([]repo.Step, repo.MaxSteps+1)...)},
	} {
		if _, err := list.Encode(); !errkind.Is(err, errkind.Invalid) || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v; want an error of kind %v and error that begins with %q", name, err, errkind.Invalid, "cannot ")
		}
	}
	for name, data := range map[string]string{
		"garbage": "\x00", "empty": "", "no format": `{"offers":[]}`, "later format": `{"format":2,"offers":[{}]}`, "nothing": `{"format":1}`, "null": `{"format":1,"offers":[null]}`,
		"large": strings.Repeat(" ", repo.MaxOffersSize+1),
	} {
		if list, err := repo.ParseOffers([]byte(data)); !errkind.Is(err, errkind.Invalid) {
			t.Errorf("%s: %v, %v; want an error of kind %v", name, list, err, errkind.Invalid)
		}
	}
}

func TestSteps(t *testing.T) {
	want := []repo.Step{{Percent: 1}, {Percent: 10, After: 6 * hour}, {Percent: 100, After: 48 * hour}}
	steps, err := repo.ParseSteps("1%@0h,10%@6h, 100%@2d")
	if err != nil || !reflect.DeepEqual(steps, want) {
		t.Errorf("got %v, %v; want no error and steps %v", steps, err, want)
	}
	if s := repo.FormatSteps(want); s != "1%@0h,10%@6h,100%@2d" {
		t.Errorf("formatted as %s, want %q", s, "1%@0h,10%@6h,100%@2d")
	}
	for _, bad := range []string{"", "10", "10%", "x%@1h", "10%@5", "10%@1h,5%@2h", "10%@2h,20%@1h", "200%@1h", "1%@999999w", "1%@0h,,"} {
		if s, err := repo.ParseSteps(bad); !errkind.Is(err, errkind.Usage) {
			t.Errorf("%q: %v, %v; want an error of kind %v", bad, s, err, errkind.Usage)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		steps := drawSteps(t)
		again, err := repo.ParseSteps(repo.FormatSteps(steps))
		if err != nil || !reflect.DeepEqual(again, steps) {
			t.Errorf("%v is read back as %v, %v; want no error and again %v", steps, again, err, steps)
		}
	})
}

// drawSteps draws a valid rollout.
func drawSteps(t *rapid.T) (steps []repo.Step) {
	percent, after := rapid.IntRange(0, 30).Draw(t, "percent"), rapid.Int64Range(0, 10*hour).Draw(t, "after")
	for range rapid.IntRange(1, repo.MaxSteps).Draw(t, "steps") {
		if percent > 100 || after > 900_000 {
			break
		}
		steps = append(steps, repo.Step{Percent: percent, After: after})
		percent += rapid.IntRange(1, 40).Draw(t, "percent")
		after += rapid.Int64Range(1, 40*hour).Draw(t, "after")
	}
	return steps
}

// TestRolloutByTime: for any rollout, a machine that an offer reaches remains reached without
// any new signature, and none is reached before its step.
func TestRolloutByTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := timed(rapid.String().Draw(t, "package"), drawSteps(t)...)
		machine := rapid.String().Draw(t, "machine")
		first, last := o.Start.Add(-time.Hour), o.Steps[len(o.Steps)-1]
		if o.Reaches(machine, first) {
			t.Error("it reaches a machine before it has begun")
		}
		at, reached := first, false
		for range 50 {
			at = at.Add(time.Duration(rapid.Int64Range(0, 20*hour).Draw(t, "later")) * time.Second)
			now := o.Reaches(machine, at)
			if reached && !now {
				t.Errorf("it does not reach the machine any more at %v", at)
			}
			reached = now
			fixed := timed("", repo.Step{})
			fixed.Package, fixed.Steps, fixed.Rollout.Percent = o.Package, nil, o.Percent(at)
			if fixed.Reaches(machine, at) != now {
				t.Error("a step is another share of the machines than the same percentage without a time")
			}
		}
		if end := o.Start.Add(time.Duration(last.After) * time.Second); last.Percent == 100 && !o.Reaches(machine, end) {
			t.Error("it does not reach all machines")
		}
		o.Halted = &repo.Halt{At: at}
		if o.Reaches(machine, at) {
			t.Error("it reaches a machine although it is halted")
		}
	})
}

// TestRolloutIsEven: a rollout reaches its share of many machines, and different ones for
// each package. The bound is five standard deviations.
func TestRolloutIsEven(t *testing.T) {
	const machines = 20000
	inside := map[string]map[int]bool{}
	for _, pkg := range []string{"a", "b"} {
		inside[pkg] = map[int]bool{}
		for _, percent := range []int{0, 1, 10, 50, 99, 100} {
			o := timed(pkg, repo.Step{Percent: percent, After: hour})
			n := 0
			for i := range machines {
				if o.Reaches(fmt.Sprintf("%032x", i*7919), now.Add(time.Hour)) {
					n++
					inside[pkg][i] = inside[pkg][i] || percent == 10
				}
			}
			want := machines * percent / 100
			// sqrt(20000 · 0.5 · 0.5) = 71
			if d := n - want; d > 355 || d < -355 || percent%100 == 0 && d != 0 {
				t.Errorf("%d%% of %d machines: got %d, want %d with at most 355 more or fewer, and exactly that for none and all", percent, machines, n, want)
			}
		}
	}
	both := 0
	for i, in := range inside["a"] {
		if in && inside["b"][i] {
			both++
		}
	}
	if both < 100 || both > 300 { // 1 % of 20,000 by chance
		t.Errorf("%d machines are among the first tenth for both packages, want 100 to 300", both)
	}
}

func FuzzOffers(f *testing.F) {
	data, _ := repo.Offers{timed("b", repo.Step{Percent: 1}), timed("a")}.Encode()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := repo.ParseOffers(data)
		if err != nil {
			return
		}
		if _, err := list.Encode(); err != nil && len(data) < repo.MaxOffersSize/2 {
			t.Errorf("%q: %v", data, err)
		}
		for i := range list {
			list[i].Reaches("m", now)
		}
	})
}
