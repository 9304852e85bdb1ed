// Command gen writes the Go glue for the interfaces in dbus/*.xml, and their
// documentation, docs/dbus.md, and constants for the words that they document,
// in agent/lib/words. go generate runs it in the directory dbus. The output
// depends on the XML only.
package main

import (
	"encoding/xml"
	"fmt"
	"go/format"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(".", "../docs/dbus.md", "../agent/lib/words/words_gen.go"); err != nil {
		fmt.Fprintln(os.Stderr, "gen: "+err.Error())
		os.Exit(1)
	}
}

// The XML of the D-Bus specification, as far as lull uses it.
type (
	node struct {
		Interfaces []iface `xml:"interface"`
	}
	iface struct {
		Name        string       `xml:"name,attr"`
		Methods     []member     `xml:"method"`
		Signals     []member     `xml:"signal"`
		Properties  []property   `xml:"property"`
		Annotations []annotation `xml:"annotation"`
		dest        string       // the bus name of its service
	}
	member struct {
		Name        string       `xml:"name,attr"`
		Args        []arg        `xml:"arg"`
		Annotations []annotation `xml:"annotation"`
	}
	arg struct {
		Name        string       `xml:"name,attr"`
		Type        string       `xml:"type,attr"`
		Direction   string       `xml:"direction,attr"`
		Annotations []annotation `xml:"annotation"`
	}
	property struct {
		Name        string       `xml:"name,attr"`
		Type        string       `xml:"type,attr"`
		Access      string       `xml:"access,attr"`
		Annotations []annotation `xml:"annotation"`
	}
	annotation struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
)

const (
	docAnnotation    = "org.gtk.GDBus.DocString"
	emitsAnnotation  = "org.freedesktop.DBus.Property.EmitsChangedSignal"
	structAnnotation = "org.lull.Struct"
	dictAnnotation   = "org.lull.Dict"
)

func annotated(as []annotation, name string) string {
	for _, a := range as {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// run reads the XML files of dir and writes its *_gen.go, the page and the file with
// the words.
func run(dir, to, vocabulary string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.xml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("there are no XML files in %s: run gen in the directory dbus", dir)
	}
	slices.Sort(files)
	var all []iface
	sources := map[string][]byte{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		sources[f] = data
		var n node
		if err := xml.Unmarshal(data, &n); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		for _, i := range n.Interfaces {
			i.dest = strings.TrimSuffix(filepath.Base(f), ".xml")
			all = append(all, i)
		}
	}
	out, err := generate(all)
	if err != nil {
		return err
	}
	code := map[string]string{}
	for name, text := range out {
		code[filepath.Join(dir, name)] = text
	}
	if code[vocabulary], err = words(all); err != nil {
		return err
	}
	for path, text := range code {
		src, err := format.Source([]byte(text))
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", path, err, text)
		}
		if err := os.WriteFile(path, src, 0o644); err != nil {
			return err
		}
	}
	text, err := page(sources, files)
	if err != nil {
		return err
	}
	return os.WriteFile(to, []byte(text), 0o644)
}
