package introspection_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// onBus is the properties of Space, in the form of inspect; each index
// but open is a property of its name.
func (s *scene) onBus(names []string) (sets map[string][]string, open []held, transfers []transfer, collected time.Time, freed uint64) {
	s.Helper()
	sets = map[string][]string{}
	for _, name := range names {
		sets[name] = s.API.Property("", "Space."+strings.ToUpper(name[:1])+name[1:]).([]string)
	}
	for _, row := range s.API.Property("", "Space.Open").([][]any) {
		var h held
		if err := dbus.Store(row, &h.Package, &h.Holder, &h.PID); err != nil {
			s.Fatalf("%v", err)
		}
		open = append(open, h)
	}
	transfers = rows(s, s.API.Property("", "Space.Transfers"))
	if at := s.API.Property("", "Space.LastCollection").(uint64); at > 0 {
		collected = time.UnixMicro(int64(at))
	}
	freed = s.API.Property("", "Space.LastCollectionBytes").(uint64)
	return sets, open, transfers, collected, freed
}

// rows reads the property Transfers.
func rows(t rig.TB, v any) (list []transfer) {
	t.Helper()
	for _, row := range v.([][]any) {
		var x transfer
		var since uint64
		if err := dbus.Store(row, &x.Package, &x.Name, &x.Holder, &x.Done, &x.Total, &x.Missing, &since); err != nil {
			t.Fatalf("%v", err)
		}
		x.Since = time.UnixMicro(int64(since))
		list = append(list, x)
	}
	return list
}

// same waits until inspect and the bus agree, which they do as soon as the
// last change has arrived, and returns it.
func (s *scene) same(when string) (v inspection) {
	s.Helper()
	s.Until("inspect and the bus say the same "+when, limit, func() (bool, string) {
		v = s.inspect()
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(v.Indices)), func(name string) bool { return name == "open" })
		sets, open, transfers, collected, freed := s.onBus(names)
		differ := ""
		note := func(what string, a, b any) {
			if !reflect.DeepEqual(a, b) {
				differ += fmt.Sprintf("%s: inspect says %v, the bus %v\n", what, a, b)
			}
		}
		if len(names) < 5 || v.Indices["open"] == nil {
			differ += fmt.Sprintf("inspect shows only %v\n", names)
		}
		for _, name := range names {
			note(name, len(v.packages(name)), len(sets[name]))
			if len(sets[name]) > 0 {
				note(name, v.packages(name), sets[name])
			}
		}
		note("open", len(v.Indices["open"]), len(open))
		if len(open) > 0 {
			note("open", v.Indices["open"], open)
		}
		note("transfers", len(v.Transfers), len(transfers))
		for i := range min(len(transfers), len(v.Transfers)) {
			a, b := v.Transfers[i], transfers[i]
			a.Since, b.Since = a.Since.UTC().Truncate(time.Microsecond), b.Since.UTC()
			note("transfer", a, b)
		}
		note("collected", v.Collected.UTC().Truncate(time.Microsecond), collected.UTC())
		note("freed", v.Collection.Bytes, freed)
		return differ == "", differ
	})
	return v
}

// TestInspectIsTheBus: every index and every transfer is the same in `lull inspect`
// and in the properties of Space, with something in each of them.
func TestInspectIsTheBus(t *testing.T) {
	s := set(t)
	v1 := s.sample(sample.V1)
	base := s.small("base", "1", map[string]string{"a": "base"})
	cache := s.small("cache", "1", map[string]string{"a": "cache"})
	retained := s.small("retained", "1", map[string]string{"a": "retained"})
	s.Configure("system.yaml", fmt.Sprintf("base: [%s]\ncache: [%s]\n", base, cache))
	s.start()
	if v := s.same("at the start"); len(v.Transfers) != 0 || !slices.Equal(v.packages("base"), []string{base}) || !slices.Equal(v.packages("cache"), []string{cache}) {
		t.Errorf("at the start: got %+v, want no transfers, base %s and cache %s", v, base, cache)
	}
	s.MustLull("install", sample.Name)
	if err := s.API.Call("Retained.Set", []string{retained}).Err; err != nil {
		t.Fatal(err)
	}
	app := s.User.StartLull(nil, "run", sample.Name)
	lease := s.User.StartLull(nil, "open", v1, "--", "sleep", "infinity")
	s.Until("the application, its service and the lease are open", limit, func() (bool, string) {
		open := s.inspect().Indices["open"]
		return len(open) == 3, fmt.Sprint(open, app.Log(), lease.Log())
	})
	v := s.same("with something in every index but one")
	for name, want := range map[string][]string{"installed": {v1}, "retained": {retained}, "open": {v1}, "writing": nil} {
		if got := v.packages(name); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
	for _, h := range v.Indices["open"] {
		if !rig.Alive(int(h.PID)) || h.Holder == "" {
			t.Errorf("open for %+v, want a process that lives and a name of the holder", h)
		}
	}
	if r := s.MustLull("gc"); r.Code != 0 || s.same("after a collection").Collected.IsZero() {
		t.Errorf("gc: got %v; want exit status 0 and a time of the collection", r)
	}

	// Now the server holds back.
	sample.Write(s, s.Path(sample.V2), sample.V2)
	sample.Ballast(s, s.Path(sample.V2), 3_000_000)
	v2 := s.Publish(s.Path(sample.V2))
	s.gate.close()
	before := time.Now()
	refresh := s.Admin.StartLull(nil, "refresh", sample.Name)
	s.Until("half of it is there", limit, func() (bool, string) {
		list := rows(s, s.API.Property("", "Space.Transfers"))
		return len(list) == 1 && list[0].Done > 0, fmt.Sprint(list, refresh.Log())
	})
	v = s.same("while something is being fetched")
	if len(v.Transfers) != 1 || !slices.Equal(v.packages("writing"), []string{v2}) {
		t.Fatalf("under way: got the transfers %+v, writing %+v, want one transfer, writing %s", v.Transfers, v.Indices["writing"], v2)
	}
	x := v.Transfers[0]
	if x.Package != v2 || x.Name != sample.Name+" "+sample.V2 || x.Holder == "" || x.Done == 0 || x.Done >= x.Total || x.Total < 3_000_000 ||
		x.Missing == 0 || x.Since.Before(before) || x.Since.After(time.Now()) {
		t.Errorf("the transfer is %+v, want one of %s %s (%s), half done, of at least 3000000 bytes, since %v or later, with a holder", x, sample.Name, sample.V2, v2, before)
	}
	s.gate.open()
	s.Until("the refresh waits for the application", limit, func() (bool, string) {
		o, _ := s.API.Refresh(sample.Name, sample.V2)
		return o.Str("State") == "waiting", o.Str("State") + refresh.Log()
	})
	if v := s.same("when all is there"); len(v.Transfers) != 0 || len(v.Indices["writing"]) != 0 || !slices.Contains(v.packages("installed"), v2) {
		t.Errorf("when all is there: got %+v, want no transfers, nothing in writing, and %s installed", v, v2)
	}

	// The signals have reported the same: its beginning, its progress, its end.
	heard := s.API.Changes("Space", "Transfers")
	first, last := -1, len(heard)-1
	for i, c := range heard {
		if list := rows(t, c.Value); len(list) > 0 && list[0].Package == v2 {
			if first < 0 {
				first = i
			}
			if i > first && len(rows(t, heard[i-1].Value)) > 0 && list[0].Done < rows(t, heard[i-1].Value)[0].Done {
				t.Errorf("the progress goes back from %+v to %+v, want it to grow", rows(t, heard[i-1].Value), list)
			}
		}
	}
	if first < 0 || last <= first || len(rows(t, heard[last].Value)) != 0 {
		t.Errorf("%d changes were heard, the first of %s as number %d, want some, and the last without a transfer", len(heard), v2, first)
	}
	app.Stop()
	lease.Stop()
	s.Until("the refresh has ended", limit, func() (bool, string) {
		o, _ := s.API.Refresh(sample.Name, sample.V2)
		return o.Str("State") == "done", o.Str("State") + refresh.Log()
	})
	s.same("after everything")
}
