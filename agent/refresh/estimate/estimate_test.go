package estimate

import (
	"testing"
	"time"
)

func TestSection(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts []Part
		want  time.Duration
	}{
		{"nothing", nil, time.Second},
		{"a hook that has never run", []Part{{Limit: time.Minute, Hard: true}}, 61 * time.Second},
		{"a hook that took 20 s", []Part{{Last: 20 * time.Second, Limit: time.Minute, Hard: true}}, 31 * time.Second},
		{"a hook that took nearly all its time", []Part{{Last: 55 * time.Second, Limit: time.Minute, Hard: true}}, 61 * time.Second},
		{"services that stop at once", []Part{{Last: 10 * time.Millisecond, Limit: 25 * time.Second}}, time.Second},
		{"a copy that took longer than the guess", []Part{{Last: 4 * time.Second, Limit: time.Second}}, 7 * time.Second},
	} {
		if got := Section(c.parts...); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestData(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name    string
		todo    Copy
		last    Copy
		earlier []Copy
		want    time.Duration
	}{
		{"nothing has changed", Copy{Took: 100 * time.Millisecond}, Copy{}, []Copy{{1000, 1000 * mib, 10 * time.Second}}, 100 * time.Millisecond},
		{"a tenth of the bytes", Copy{Files: 10, Bytes: 100 * mib}, Copy{}, []Copy{{1000, 1000 * mib, 10 * time.Second}}, time.Second},
		{"a tenth of the files", Copy{Files: 100, Bytes: 1000}, Copy{}, []Copy{{1000, 1000 * mib, 10 * time.Second}}, time.Second},
		{"all of it", Copy{1000, 1000 * mib, time.Second}, Copy{}, []Copy{{1000, 1000 * mib, 10 * time.Second}}, 11 * time.Second},
		{"the larger copy counts", Copy{Files: 10, Bytes: 200 * mib}, Copy{10, 20 * mib, 10 * time.Second}, []Copy{{1000, 1000 * mib, 10 * time.Second}}, 10 * time.Second},
		{"less than the last time", Copy{Files: 9, Bytes: 90 * mib}, Copy{10, 100 * mib, time.Second}, []Copy{{1000, 1000 * mib, 100 * time.Second}}, time.Second},
		{"more than the last time", Copy{Files: 2, Bytes: 2}, Copy{1, 1, 3 * time.Second}, []Copy{{1000, 1000 * mib, 10 * time.Second}}, 3 * time.Second},
		{"the last one was too small to judge by", Copy{Files: 1, Bytes: 320 * mib}, Copy{1, 1, time.Second}, nil, 10 * time.Second},
		{"without any memory", Copy{Files: 5000}, Copy{}, nil, 5 * time.Second},
	} {
		got := Data(c.todo, c.last, c.earlier...).Last
		if d := got - c.want; d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
