package exports

import (
	"path"
	"path/filepath"
	"strings"
)

// completions adds the completions of bash, zsh and fish below a directory with shared files.
// The completion of a program becomes that of the command which starts it.
func (p *planner) completions(share string) {
	for _, u := range p.list(share+"/bash-completion/completions", "") {
		p.completion(u, u.name, completionDir, "", bashCompletion)
	}
	for _, dir := range []string{"site-functions", "vendor-completions"} {
		for _, u := range p.list(share+"/zsh/"+dir, "") {
			if program, ok := strings.CutPrefix(u.name, "_"); ok {
				p.completion(u, program, zshDir, "_", zshCompletion)
			}
		}
	}
	for _, dir := range []string{"vendor_completions.d", "completions"} {
		for _, u := range p.list(share+"/fish/"+dir, ".fish") {
			p.completion(u, strings.TrimSuffix(u.name, ".fish"), fishDir, "", fishCompletion)
		}
	}
}

// completion adds the completion of a program of the package to dir.
func (p *planner) completion(u usual, program, dir, prefix string, script func(file, program, command string) string) {
	for i := range p.m.Apps {
		a := &p.m.Apps[i]
		if a.Name != program && path.Base(programOf(a)) != program {
			continue
		}
		command := Wrapper(p.instance, p.m, a.Name)
		name := prefix + command
		if dir == fishDir {
			name += ".fish"
		}
		p.put(filepath.Join(dir, name), u, func([]byte) ([]byte, error) {
			return []byte(script(filepath.Join(p.root, "current", p.instance, u.path()), program, command)), nil
		})
		break
	}
}

// bashCompletion is a script that loads a completion file of a package, and uses the completion
// of program for command, too.
func bashCompletion(file, program, command string) string {
	script := "# The completion of " + program + " for the command " + command + ".\n. " + quoted(file) + " || return\n"
	if program != command {
		script += "if __lull=$(complete -p -- " + program + " 2>/dev/null); then\n\teval \"${__lull% *} " + command + "\"\nfi\nunset __lull\n"
	}
	return script
}

// zshCompletion is the body of a function that loads the one of a package under its own name,
// which it may compare with funcstack, and calls it as for program (zshcompsys(1)).
func zshCompletion(file, program, command string) string {
	return "#compdef " + command + "\n# The completion of " + program + ".\nlocal service=" + quoted(program) + "\n" +
		"autoload -Uz -- " + quoted(file) + " && " + quoted(path.Base(file)) + " \"$@\"\n"
}

// fishCompletion is a script that loads the one of a package, and uses the completions of
// program for command, too.
func fishCompletion(file, program, command string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(file)
	script := "# The completion of " + program + " for the command " + command + ".\nsource '" + escaped + "'\n"
	if program != command {
		script += "complete --command " + quoted(command) + " --wraps " + quoted(program) + "\n"
	}
	return script
}

// quoted is a word of a shell.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
