package main

import (
	"regexp"

	"github.com/lull/lull/cmd/lull/output"
)

// placeholder matches the names of arguments in usages and in help texts.
var placeholder = regexp.MustCompile(`\b[A-Z]{3,}\b`)

// placeholders translates the names of arguments in a text, as FILE and REPOSITORY.
func placeholders(text string) string {
	names := map[string]string{
		"ADDRESS": output.T("ADDRESS"), "APP": output.T("APP"), "ARGS": output.T("ARGS"), "CHANNEL": output.T("CHANNEL"), "COMMAND": output.T("COMMAND"),
		"DIRECTORY": output.T("DIRECTORY"), "FILE": output.T("FILE"), "FOLDER": output.T("FOLDER"), "LINE": output.T("LINE"), "PACKAGE": output.T("PACKAGE"),
		"PATH": output.T("PATH"), "QUERY": output.T("QUERY"), "REPOSITORY": output.T("REPOSITORY"), "ROLE": output.T("ROLE"), "SUBPACKAGE": output.T("SUBPACKAGE"),
		"TIME": output.T("TIME"), "UPDATE": output.T("UPDATE"), "WORD": output.T("WORD"),
	}
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		if translated, ok := names[name]; ok {
			return translated
		}
		return name
	})
}
