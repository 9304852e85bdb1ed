package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// told is hostile in a form for a bus, which carries UTF-8 alone.
var told = strings.ToValidUTF8(hostile, "")

// fill puts told into all texts below v.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		fill(v.Elem())
	case reflect.String:
		if v.SetString(told); v.Type() == reflect.TypeFor[dbus.ObjectPath]() {
			v.SetString(string(bus.AgentPath))
		}
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()), reflect.New(v.Type().Elem())
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key.Elem(), value.Elem())
	}
}

func filled[T any](change func(*T)) T {
	var v T
	fill(reflect.ValueOf(&v))
	if change != nil {
		change(&v)
	}
	return v
}

// others are the commands that TestHostileAgent need not run, because they show no data of an
// agent, with the reason.
var others = map[string]string{
	"lull": "help", "lull repo": "help", "lull channel": "help", "lull system": "help", "lull completion": "texts of this program", "lull commands": "texts of this program",
	"lull run":       "the launcher, userd/launch",
	"lull try":       "the launcher, userd/launch",
	"lull new":       "writes files",
	"lull repo init": "writes files", "lull repo resign": "writes files", "lull repo rotate": "writes files", "lull repo delegate": "writes files", "lull repo undelegate": "writes files", "lull repo accept": "writes files", "lull repo export-key": "writes files", "lull publish": "writes files",
	"lull channel halt": "writes files", "lull channel promote": "writes files", "lull channel resume": "writes files", "lull channel show": "reads files",
	"lull channel list": "reads files", "lull channel watch": "reads files", "lull channel remove": "writes files", "lull repo check": "reads files", "lull repo prune": "removes files", "lull repo deltas": "writes files", "lull repo site": "writes files",
	"lull policy check": "reads files", "lull policy explain": "reads files", "lull system prepare-image": "removes files",
}

// TestHostileAgent: with any texts from processes, users, packages and repositories in the
// agent, no command writes controls to a terminal.
func TestHostileAgent(t *testing.T) {
	f := startAgent(t)
	f.add(t, filled(func(p *bus.PackageProperties) { p.Icon, p.DesktopEntry = "", "" }))
	known := notes()
	fill(reflect.ValueOf(&known.Revisions))
	fill(reflect.ValueOf(&known.Processes))
	known.Summary, known.Title, known.Version, known.Repository = told, told, told, told
	f.add(t, known)
	f.pending = []bus.PendingRefresh{filled(func(p *bus.PendingRefresh) { p.Refresh = bus.RefreshPath("7") })}
	f.withholds(filled[bus.WithheldVersion](nil))
	f.chains = []bus.Chain{filled[bus.Chain](nil)}
	f.offers = []bus.AvailablePackage{filled[bus.AvailablePackage](nil), filled(func(o *bus.AvailablePackage) { o.Name = "org.example.notes" })}
	f.updates = []bus.AvailableUpdate{filled(func(u *bus.AvailableUpdate) { u.Refresh = bus.RefreshPath("7") })}
	f.ended = []bus.EndedRefresh{filled[bus.EndedRefresh](nil), filled(func(c *bus.EndedRefresh) { c.Kind, c.Undo = "remove", "install" })}
	f.checks = []bus.Check{filled[bus.Check](nil), filled(func(c *bus.Check) { c.State = "fail" })}
	f.space.set([]bus.PackageUsage{filled[bus.PackageUsage](nil), filled(func(u *bus.PackageUsage) { u.KeptBy = "" })}, []bus.Finding{filled[bus.Finding](nil)})
	inspected, err := json.Marshal(map[string]any{"runs": []string{told}, told: told})
	if err != nil {
		t.Fatal(err)
	}
	f.inspects = string(inspected)
	f.manager.Update(func(p *bus.ManagerProperties) { fill(reflect.ValueOf(p)) })
	f.measured.Update(func(p *bus.SpaceProperties) { fill(reflect.ValueOf(p)) })
	f.system.Update(func(p *bus.SystemProperties) { fill(reflect.ValueOf(p)) })
	var waits atomic.Bool
	f.play(func(verb, name string) (dbus.ObjectPath, error) {
		if name == "org.refused" {
			return "", errkind.New(errkind.Failed, "cannot %s it: %s", verb, told).WithHint("%s", told)
		}
		first := filled(func(p *bus.RefreshProperties) {
			p.Instance, p.State, p.BytesTotal, p.BytesDone = name, "preparing", 9, 7
		})
		return f.begin("7", first,
			func(p *bus.RefreshProperties) { p.Step = "fetch" },
			func(p *bus.RefreshProperties) {
				if p.State = "undone"; waits.Load() {
					p.State, p.Step = "waiting", "wait"
				}
			})
	})
	dir := t.TempDir()
	root := filepath.Join(dir, "root.json")
	if err := os.WriteFile(root, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	const theApp = "org.example.notes"
	runs := map[string][][]string{
		"lull install": {{"org.refused"}, {"org.new"}}, "lull remove": {{"org.refused"}, {theApp}}, "lull refresh": {{}, {theApp}, {"--no-wait", theApp}, {"--list"}, {"org.refused"}, {"--retry", theApp}, {"--cancel", theApp}},
		"lull revert": {{theApp}}, "lull list": {{}}, "lull open": {{theApp, "--", "true"}}, "lull pending": {{}}, "lull hold": {{theApp, "--reason", told}, {"org.none"}},
		"lull unhold": {{theApp}}, "lull du": {{}}, "lull gc": {{"--dry-run"}, {}}, "lull why": {{theApp}, {"unknown"}}, "lull verify": {{}},
		"lull repo add": {{"main", "https://x/" + told, "--trust=" + root}}, "lull repo list": {{}}, "lull repo show": {{"local"}, {told}}, "lull repo set-url": {{told, "https://x/"}},
		"lull repo remove": {{told}}, "lull status": {{}, {theApp}, {told}}, "lull system stage": {{told}}, "lull system status": {{}}, "lull system commit": {{}},
		"lull system rollback": {{}}, "lull doctor": {{}}, "lull inspect": {{}}, "lull policy": {{}}, "lull policy reload": {{}, {}}, "lull version": {{}},
		"lull monitor": {{}}, "lull history": {{}, {theApp}, {told}},
		"lull search": {{}, {told}}, "lull info": {{theApp}, {told}}, "lull changelog": {{theApp}, {told}}, "lull switch": {{"--channel", told, theApp}},
	}
	var names []string
	var collect func(c commandJSON)
	collect = func(c commandJSON) {
		names = append(names, c.Name)
		for _, sub := range c.Commands {
			collect(sub)
		}
	}
	collect(describe((&app{Printer: &output.Printer{}}).command()))
	seen := 0
	for _, name := range names {
		if len(runs[name]) == 0 && others[name] == "" {
			t.Errorf("%s is not tried", name)
		}
		for _, more := range runs[name] {
			for _, flags := range [][]string{{}, {"--json"}} {
				for _, w := range []bool{false, true} {
					waits.Store(w)
					args := slices.Concat([]string{"--bus=" + f.address}, flags, strings.Fields(name)[1:], more)
					limit := time.Minute
					if name == "lull monitor" {
						limit = 300 * time.Millisecond // it runs until it is interrupted
					}
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					var out, errs bytes.Buffer
					code := run(ctx, args, strings.NewReader(""), &out, &errs)
					cancel()
					clean(t, strings.Join(args[1:], " ")+", stdout", out.String())
					clean(t, strings.Join(args[1:], " ")+", stderr", errs.String())
					if code == errkind.ExitCode(errkind.New(errkind.Usage, "x")) && name != "lull repo add" {
						t.Errorf("%q: got exit status %d, the one of wrong usage, with %q; want another", args, code, errs.String())
					}
					seen += strings.Count(out.String()+errs.String(), "31mb")
				}
			}
		}
	}
	if t.Logf("%d hostile texts were shown", seen); seen < 100 {
		t.Error("too few: the agent says nothing hostile")
	}
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		if !slices.Contains(names, name) {
			t.Errorf("there is no %s", name)
		}
	}
}
