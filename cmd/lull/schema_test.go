package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

var update = flag.Bool("update", false, "write docs/lull.schema.json")

const schemaFile = "../../docs/lull.schema.json"

// documents are the outputs of the commands with --json.
var documents = map[string]any{
	"lull --events": progressJSON{}, "lull changelog": changelogJSON{}, "lull channel halt": channelJSON{}, "lull channel watch": channelJSON{}, "lull channel promote": channelJSON{},
	"lull channel resume": channelJSON{}, "lull channel show": channelJSON{}, "lull commands": commandsJSON{}, "lull doctor": doctorJSON{}, "lull du": duJSON{}, "lull gc": gcJSON{},
	"lull history": historyJSON{}, "lull hold": holdsJSON{}, "lull info": infoJSON{}, "lull inspect": map[string]any{}, "lull install": refreshesJSON{},
	"lull list": listJSON{}, "lull monitor": eventJSON{}, "lull new": newJSON{}, "lull open": openJSON{}, "lull pending": pendingsJSON{}, "lull policy": policyJSON{},
	"lull policy check": policyCheckJSON{}, "lull policy explain": explainedJSON{}, "lull policy reload": output.Document{}, "lull publish": publishedJSON{},
	"lull publish --check": checkedJSON{}, "lull publish --show": derivedJSON{}, "lull refresh": refreshesJSON{}, "lull refresh --list": updatesJSON{}, "lull remove": refreshesJSON{},
	"lull repo add": repoChangedJSON{}, "lull repo init": repoInitJSON{}, "lull repo list": repoListJSON{}, "lull repo remove": repoChangedJSON{},
	"lull repo resign": signedJSON{}, "lull repo rotate": signedJSON{}, "lull repo delegate": signedJSON{}, "lull repo undelegate": signedJSON{}, "lull repo accept": acceptedJSON{}, "lull repo export-key": exportedKeyJSON{}, "lull repo set-url": repoChangedJSON{}, "lull repo show": repoShowJSON{},
	"lull publish A B": publishedListJSON{}, "lull channel list": channelListJSON{}, "lull channel remove": channelRemovedJSON{}, "lull repo check": repoCheckJSON{}, "lull repo prune": repoPruneJSON{}, "lull repo deltas": repoDeltasJSON{}, "lull repo site": repoSiteJSON{},
	"lull revert": refreshesJSON{}, "lull search": searchJSON{}, "lull status": statusJSON{}, "lull status APP": packageStatusJSON{},
	"lull switch": packageStatusJSON{}, "lull system commit": systemJSON{}, "lull system prepare-image": preparedImageJSON{},
	"lull system rollback": systemJSON{}, "lull system stage": systemJSON{}, "lull system status": systemJSON{}, "lull unhold": holdsJSON{},
	"lull verify": verifiedJSON{}, "lull version": versionJSON{}, "lull why": whyJSON{},
}

// writesNone are the commands without a document, with the reason.
var writesNone = map[string]string{"lull": "help", "lull repo": "help", "lull channel": "help", "lull system": "help", "lull completion": "a script", "lull run": "the application's output", "lull try": "the application's output"}

// definition is the name of a document in the file.
func definition(command string) string {
	return strings.NewReplacer(" --", "-", " ", "-").Replace(strings.ToLower(command))
}

// schemas makes schemas of types, each type once.
type schemas struct {
	defs     map[string]*jsonschema.Schema
	types    map[string]reflect.Type // of defs
	comments map[string]string       // TYPE or TYPE.FIELD
}

func (s *schemas) of(t reflect.Type) *jsonschema.Schema {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return &jsonschema.Schema{Type: "string", Format: "date-time"}
	case t.Kind() == reflect.Pointer:
		inner := s.of(t.Elem())
		if inner.Type == "" {
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{inner, {Type: "null"}}}
		}
		inner.Type, inner.Types = "", []string{inner.Type, "null"}
		return inner
	}
	switch t.Kind() {
	case reflect.String:
		return &jsonschema.Schema{Type: "string"}
	case reflect.Bool:
		return &jsonschema.Schema{Type: "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return &jsonschema.Schema{Type: "integer"}
	case reflect.Slice:
		return &jsonschema.Schema{Type: "array", Items: s.of(t.Elem())}
	case reflect.Interface:
		return &jsonschema.Schema{}
	case reflect.Map:
		return &jsonschema.Schema{Type: "object", AdditionalProperties: s.of(t.Elem())}
	case reflect.Struct:
		name := strings.TrimSuffix(t.Name(), "JSON")
		if s.types[name] == nil {
			s.types[name] = t
			s.defs[name] = &jsonschema.Schema{} // of a recursive type
			*s.defs[name] = *s.object(t)
		}
		if s.types[name] != t {
			panic("two types are called " + name)
		}
		return &jsonschema.Schema{Ref: "#/$defs/" + name}
	}
	panic("no schema for " + t.String())
}

func (s *schemas) object(t reflect.Type) *jsonschema.Schema {
	o := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}, Description: s.comments[t.Name()]}
	for f := range fields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue // not exported
		}
		p := s.of(f.Type)
		if strings.Contains(options, "omitempty") { // null is left out as well
			p = s.of(deref(f.Type))
		} else {
			o.Required = append(o.Required, name)
		}
		p.Description = s.comments[t.Name()+"."+f.Name]
		o.Properties[name] = p
		o.PropertyOrder = append(o.PropertyOrder, name)
	}
	return o
}

func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// fields returns the fields of a struct, with those of embedded ones in their place.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(t) {
			if !f.Anonymous && !yield(f) {
				return
			}
		}
	}
}

// comments returns the comments of the types and fields in directories of Go files.
func comments(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	text := func(groups ...*ast.CommentGroup) string {
		for _, g := range groups {
			if s := strings.Join(strings.Fields(g.Text()), " "); s != "" {
				return s
			}
		}
		return ""
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range tree.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok {
					continue
				}
				for _, spec := range g.Specs {
					ts, ok := spec.(*ast.TypeSpec)
					if !ok {
						continue
					}
					if doc := text(ts.Doc, g.Doc); doc != "" {
						found[ts.Name.Name] = strings.ToUpper(doc[len(ts.Name.Name)+1:][:1]) + doc[len(ts.Name.Name)+2:]
					}
					if st, ok := ts.Type.(*ast.StructType); ok {
						for _, f := range st.Fields.List {
							for _, n := range f.Names {
								found[ts.Name.Name+"."+n.Name] = text(f.Comment)
							}
						}
					}
				}
			}
		}
	}
	return found
}

func theSchemas(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s := &schemas{map[string]*jsonschema.Schema{}, map[string]reflect.Type{}, comments(t, ".", "output", "../../policy")}
	for _, command := range slices.Sorted(maps.Keys(documents)) {
		typ := reflect.TypeOf(documents[command])
		d := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{"version": {Type: "integer"}}, Required: []string{"version"},
			Description: "All that the agent has in memory; what is in it may change."}
		if typ.Kind() == reflect.Struct {
			d = s.object(typ)
		}
		d.Properties["version"] = &jsonschema.Schema{Type: "integer", Const: jsonschema.Ptr[any](1)}
		d.Title = command
		s.defs[definition(command)] = d
	}
	return &jsonschema.Schema{
		Schema:      "https://json-schema.org/draft/2020-12/schema",
		ID:          "https://github.com/lull/lull/docs/lull.schema.json",
		Title:       "lull --json",
		Description: "What each command of lull writes with --json is $defs/lull-COMMAND. Later versions may add keys, which programs ignore.",
		Defs:        s.defs,
	}
}

// TestSchemas: the schemas in the documentation are those of the types, every command has
// one, and docs/json.md names it.
func TestSchemas(t *testing.T) {
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(theSchemas(t)); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got %s with %d bytes (%v), want the %d bytes of the schemas in the code; write them with: go test ./cmd/lull -run TestSchemas -update", schemaFile, len(got), err, want.Len())
	}
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range allCommands() {
		if documents[name] == nil && writesNone[name] == "" {
			t.Errorf("%s has no schema", name)
		}
	}
	for name := range documents {
		if name != "lull commands" && !bytes.Contains(text, []byte("`"+name+"`")) { // it is hidden
			t.Errorf("docs/json.md does not name %s", name)
		}
	}
}

func allCommands() (names []string) {
	var collect func(c commandJSON)
	collect = func(c commandJSON) {
		names = append(names, c.Name)
		for _, sub := range c.Commands {
			collect(sub)
		}
	}
	collect(describe((&app{Printer: &output.Printer{}}).command()))
	return append(names, "lull commands") // hidden
}

// closed forbids keys that a schema does not name.
func closed(s *jsonschema.Schema) {
	for _, d := range s.Defs {
		if d.Properties != nil && d.AdditionalProperties == nil && d.Title != "lull inspect" {
			d.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}}
		}
	}
}

// TestOutputsHaveTheirSchema: every command is run with --json, against an agent that has a
// value in each field and one that has none, and its output matches its schema.
func TestOutputsHaveTheirSchema(t *testing.T) {
	var file jsonschema.Schema
	b, err := os.ReadFile(schemaFile)
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	closed(&file)
	checks := map[string]*jsonschema.Resolved{}
	for name := range documents {
		s := file
		s.Ref = "#/$defs/" + definition(name)
		if checks[name], err = s.Resolve(nil); err != nil {
			t.Fatal(name, err)
		}
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := cmp.Or(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, policy := write("root.json", "{}"), write("policy.yaml", "defaults: {mode: wait}\n")
	rule := write("rule.yaml", "above: 5%\n")
	broken := write("broken.yaml", "no-such-key: 1\n")
	source := filepath.Dir(write("package/lull.yaml", "name: org.example.thing\nversion: \"1\"\napps: [{name: thing, command: [bin/thing]}]\n"))
	write("package/bin/thing", "#!/bin/sh\n")
	other := filepath.Dir(write("other/lull.yaml", "name: org.example.other\nversion: \"1\"\n"))
	if err := os.Chmod(filepath.Join(source, "bin/thing"), 0o755); err != nil {
		t.Fatal(err)
	}
	repository, store := filepath.Join(dir, "repo"), filepath.Dir(write("store/store.json", `{"id":"0123456789abcdef0123456789abcdef"}`))
	foreign, vendor := filepath.Dir(write("foreign/lull.yaml", "name: org.vendor.thing\nversion: \"1\"\n")), filepath.Join(dir, "vendor.keys")
	if err := cmp.Or(os.Mkdir(vendor, 0o700), os.Symlink(repository+".keys/root.json", filepath.Join(vendor, "root.json"))); err != nil {
		t.Fatal(err)
	}
	const app = "org.example.notes"
	lines := []struct {
		document, arguments string
	}{
		{"lull install", "--events install org.example.evented"}, {"lull verify", "--events verify"},
		{"lull install", "install org.example.new"}, {"lull install", "install --detach org.example.busy"}, {"lull remove", "remove " + app}, {"lull revert", "revert " + app},
		{"lull refresh", "refresh"}, {"lull refresh", "refresh org.example.busy"}, {"lull refresh", "refresh --cancel " + app}, {"lull refresh", "refresh --retry " + app},
		{"lull refresh --list", "refresh --list"}, {"lull list", "list"}, {"lull open", "open " + app}, {"lull pending", "pending"}, {"lull hold", "hold " + app},
		{"lull hold", "hold --all 2h"}, {"lull unhold", "unhold " + app}, {"lull unhold", "unhold --all"}, {"lull du", "du"}, {"lull gc", "gc"}, {"lull gc", "gc --dry-run"},
		{"lull why", "why " + app}, {"lull verify", "verify"}, {"lull status", "status"}, {"lull status APP", "status " + app}, {"lull switch", "switch --channel edge " + app},
		{"lull system stage", "system stage x"}, {"lull system status", "system status"}, {"lull system commit", "system commit"}, {"lull system rollback", "system rollback"},
		{"lull doctor", "doctor"}, {"lull inspect", "inspect"}, {"lull policy", "policy"}, {"lull policy reload", "policy reload"}, {"lull policy reload", "policy reload"},
		{"lull version", "version"}, {"lull monitor", "monitor"}, {"lull history", "history"}, {"lull search", "search"}, {"lull info", "info " + app},
		{"lull info", "info org.example.mousepad"}, {"lull changelog", "changelog " + app}, {"lull commands", "commands"},
		{"lull repo add", "repo add main /x --trust " + root}, {"lull repo list", "repo list"}, {"lull repo show", "repo show local"}, {"lull repo set-url", "repo set-url main /y"},
		{"lull repo remove", "repo remove main"}, {"lull repo remove", "repo remove main"},
		{"lull policy check", "policy check " + policy}, {"lull policy check", "policy check " + broken}, {"lull policy explain", "--config " + dir + " --root " + store + " policy explain " + app},
		{"lull repo init", "repo init " + repository}, {"lull publish", "--events publish " + source + " --repo " + repository}, {"lull publish", "publish " + source + " --repo " + repository}, {"lull repo resign", "repo resign " + repository},
		{"lull repo export-key", "repo export-key vendor --keys " + vendor}, {"lull repo delegate", "repo delegate " + repository + " vendor org.vendor.* --key " + vendor + "/vendor.pub"},
		{"lull publish", "publish " + foreign + " --repo " + repository + " --keys " + vendor}, {"lull repo accept", "repo accept " + repository + " vendor"},
		{"lull repo undelegate", "repo undelegate " + repository + " vendor"},
		{"lull publish A B", "publish " + source + " " + other + " --repo " + repository}, {"lull channel list", "channel list --repo " + repository}, {"lull channel remove", "channel remove org.example.other --repo " + repository},
		{"lull repo check", "repo check " + repository}, {"lull repo prune", "repo prune --dry-run " + repository}, {"lull repo deltas", "repo deltas " + repository}, {"lull repo site", "repo site " + repository},
		{"lull channel halt", "channel halt org.example.thing --reason slow --repo " + repository}, {"lull channel show", "channel show org.example.thing --repo " + repository},
		{"lull channel watch", "channel watch org.example.thing --for 1s --prometheus http://127.0.0.1:1 --rule " + rule + " --repo " + repository},
		{"lull channel resume", "channel resume org.example.thing --repo " + repository}, {"lull channel promote", "channel promote org.example.thing --rollout 1%@0h,100%@2d --repo " + repository},
		{"lull repo rotate", "repo rotate " + repository}, {"lull system prepare-image", "--root " + store + " system prepare-image"}, {"lull system prepare-image", "--root " + store + " system prepare-image"},
	}
	tried := map[string]bool{"lull publish --check": true, "lull publish --show": true, "lull new": true} // by TestScriptsOffline, which has the converter
	for _, full := range []bool{true, false} {
		f := startAgent(t)
		if full {
			fillAgent(t, f)
		}
		for _, l := range lines {
			args := append([]string{"--json", "--bus=" + f.address}, strings.Fields(l.arguments)...)
			limit := time.Minute
			if l.document == "lull monitor" {
				limit = 300 * time.Millisecond // it runs until it is interrupted
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			var out, errs bytes.Buffer
			code := run(ctx, args, strings.NewReader(""), &out, &errs)
			cancel()
			if code == 64 {
				t.Errorf("lull %s: got exit status 64 (wrong usage), want another; error output: %s", l.arguments, errs.String())
			}
			d := json.NewDecoder(&out)
			for d.More() {
				var doc any
				if err := d.Decode(&doc); err != nil {
					t.Errorf("lull %s: %v", l.arguments, err)
					break
				}
				document := l.document
				if strings.HasPrefix(l.arguments, "--events ") && d.More() { // the last line is the document
					document = "lull --events"
				}
				if err := checks[document].Validate(doc); err != nil {
					t.Errorf("lull %s: %v\n%v", l.arguments, err, doc)
				}
				tried[document] = true
			}
		}
	}
	for name := range documents {
		if !tried[name] {
			t.Errorf("got no document from %s, want at least one to check", name)
		}
	}
}

// fillAgent puts a value into each field of an agent's replies.
func fillAgent(t *testing.T, f *fakeAgent) {
	t.Helper()
	p := notes()
	fill(reflect.ValueOf(&p))
	p.Instance, p.Name, p.Refresh, p.HeldUntil = "org.example.notes", "org.example.notes", bus.RefreshPath("7"), micro(monday)
	f.add(t, p)
	for id, state := range map[string]string{"7": "waiting", "8": output.Stuck, "9": "preparing"} {
		r := filled(func(r *bus.RefreshProperties) { r.Instance, r.State = "org.example.notes", state })
		if _, err := f.begin(id, r); err != nil {
			t.Fatal(err)
		}
	}
	f.pending = []bus.PendingRefresh{filled[bus.PendingRefresh](nil)}
	f.chains = []bus.Chain{filled[bus.Chain](nil)}
	f.offers = []bus.AvailablePackage{filled(func(o *bus.AvailablePackage) { o.Name = "org.example.notes" })}
	f.updates = []bus.AvailableUpdate{filled(func(u *bus.AvailableUpdate) { u.Refresh = bus.RefreshPath("7") })}
	f.ended = []bus.EndedRefresh{filled[bus.EndedRefresh](nil), filled(func(c *bus.EndedRefresh) { c.Kind, c.Undo = "remove", "install" })}
	f.checks = []bus.Check{filled[bus.Check](nil)}
	f.space.set([]bus.PackageUsage{filled[bus.PackageUsage](nil), filled(func(u *bus.PackageUsage) { u.KeptBy = "" })}, []bus.Finding{filled[bus.Finding](nil)})
	f.manager.Update(func(p *bus.ManagerProperties) { fill(reflect.ValueOf(p)) })
	f.measured.Update(func(p *bus.SpaceProperties) { fill(reflect.ValueOf(p)) })
	f.system.Update(func(p *bus.SystemProperties) { fill(reflect.ValueOf(p)); p.State = "staged" })
}
