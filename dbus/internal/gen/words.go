package main

import (
	"fmt"
	"regexp"
	"strings"
)

// vocabulary is where the documentation of a member lists words.
type vocabulary struct {
	iface, member string
	list          *regexp.Regexp // has the list as its first group
	word          *regexp.Regexp // has a word and its meaning, if there is one
	prefix        string         // of the constants
	comment       string
}

var vocabularies = []vocabulary{
	{"org.lull.Session1", "LaunchWaits", regexp.MustCompile(`content of the marker: (.*?)\. `), regexp.MustCompile(`(refresh-[a-z-]+)()`), "",
		"The words of the marker .inhibited: why launches of an instance wait."},
	{"org.lull.Agent1.Helper", "Work", regexp.MustCompile(`Phases: (.*?)\. `), regexp.MustCompile(`([a-z]+) \((.*?)\)`), "Phase",
		"The phases of the user's part of a refresh."},
}

// words returns a Go file with a constant for each word of the vocabularies.
func words(all []iface) (string, error) {
	var b strings.Builder
	b.WriteString("// Code generated from dbus/*.xml by go generate ./dbus; DO NOT EDIT.\n\npackage words\n")
	for _, v := range vocabularies {
		list := v.list.FindStringSubmatch(documentation(all, v.iface, v.member))
		if list == nil {
			return "", fmt.Errorf("the documentation of %s.%s lists no words that match %s", v.iface, v.member, v.list)
		}
		fmt.Fprintf(&b, "\n// %s\nconst (\n", v.comment)
		for _, m := range v.word.FindAllStringSubmatch(list[1], -1) {
			name := v.prefix
			for part := range strings.SplitSeq(m[1], "-") {
				name += strings.ToUpper(part[:1]) + part[1:]
			}
			if m[2] != "" {
				fmt.Fprintf(&b, "\t// %s: %s.\n", name, m[2])
			}
			fmt.Fprintf(&b, "\t%s = %q\n", name, m[1])
		}
		b.WriteString(")\n")
	}
	return b.String(), nil
}

// documentation returns that of a method or signal, or "".
func documentation(all []iface, name, of string) string {
	for _, i := range all {
		for _, m := range append(i.Methods[:len(i.Methods):len(i.Methods)], i.Signals...) {
			if i.Name == name && m.Name == of {
				return annotated(m.Annotations, docAnnotation)
			}
		}
	}
	return ""
}
