package desktopentry

import (
	"errors"
	"strings"
	"testing"
)

const good = "# made by hand\n[Desktop Entry]\nType=Application\nName=Notes\nName[de]=Notizen\nExec = notes --new %U\n\n[Desktop Action new]\nName=New\nExec=notes --new\n"

func TestParse(t *testing.T) {
	f, err := Parse([]byte(good), Main)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CheckApplication(); err != nil {
		t.Fatal(err)
	}
	if got := f.Value(Main, "Name[de]"); got != "Notizen" {
		t.Errorf("Name[de] is %q, want Notizen", got)
	}
	f.Set(Main, "Icon", "/x.svg")
	f.Set(Main, "Name", "Other")
	f.Drop(Main, "Name[de]")
	want := "# made by hand\n[Desktop Entry]\nIcon=/x.svg\nType=Application\nName=Other\nExec=notes --new %U\n\n[Desktop Action new]\nName=New\nExec=notes --new\n"
	if got := string(f.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const head = "[Desktop Entry]\nType=Application\nName=x\nExec=x\n"
	for name, c := range map[string]struct{ content, want string }{
		"empty":                   {"", `no group "Desktop Entry"`},
		"a program":               {"\x7fELF\x01\x00", "line 1"},
		"not UTF-8":               {head + "Comment=\xff\n", "UTF-8"},
		"space behind the header": {"[Desktop Entry] \nName=x\n", "line 1"},
		"space before the header": {" [Desktop Entry]\nName=x\n", "line 1"},
		"a long line":             {head + "Comment=" + strings.Repeat("c", 70_000) + "\n", "line 5"},
		"a long file":             {head + strings.Repeat("#"+strings.Repeat("c", 1000)+"\n", 300), "bytes, where"},
		"another group first":     {"[Other]\nName=x\n" + head, `first group is "Other"`},
		"a key first":             {"Name=x\n" + head, "before the first group"},
		"a group twice":           {head + head, "there twice"},
		"a key twice":             {head + "Name=y\n", "line 5"},
		"a line without =":        {head + "nonsense\n", "line 5"},
		"a key with a space":      {head + "Na me=x\n", "line 5"},
		"a locale without end":    {head + "Name[de=x\n", "line 5"},
		"an escape character":     {head + "Comment=\x1b[2J\n", "control character"},
		"a carriage return":       {head + "Comment=a\rExec=b\n", "control character"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.content), Main)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestCheckApplication(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"a link":               {"[Desktop Entry]\nType=Link\nName=x\nURL=x\n", "Type"},
		"no type":              {"[Desktop Entry]\nName=x\nExec=x\n", "Type"},
		"no name":              {"[Desktop Entry]\nType=Application\nExec=x\n", "Name"},
		"no exec":              {"[Desktop Entry]\nType=Application\nName=x\n", "Exec"},
		"started by the bus":   {"[Desktop Entry]\nType=Application\nName=x\nDBusActivatable=true\n", ""},
		"exec of a mere group": {"[Desktop Entry]\nType=Application\nName=x\n[Desktop Action a]\nExec=x\n", "Exec"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse([]byte(c.content), Main)
			if err != nil {
				t.Fatal(err)
			}
			err = f.CheckApplication()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestRewriteExec(t *testing.T) {
	find := func(program string) (string, error) {
		switch program {
		case "app", "/usr/bin/app", "/opt/My App/app":
			return "/exports/bin/app", nil
		case "odd":
			return `/home/a b/50%/$x`, nil
		}
		return "", errors.New("unknown program " + program)
	}
	named := func(name string) (string, error) {
		if name == "org.x.App" {
			return "/exports/bin/app", nil
		}
		return "", errors.New("unknown bus name " + name)
	}
	for _, c := range []struct{ value, want string }{
		{"app", "/exports/bin/app"},
		{"app --new %F", "/exports/bin/app --new %F"},
		{"/usr/bin/app  --a  'b c'  \"d e\" %u", "/exports/bin/app  --a  'b c'  \"d e\" %u"},
		{`"/opt/My App/app" %U`, "/exports/bin/app %U"},
		{`/opt/My\ App/app %U`, "/exports/bin/app %U"},
		{"env A=b app --new %F", "env A=b /exports/bin/app --new %F"},
		{"/usr/bin/env -u X --unset=Y A=b C= app", "/usr/bin/env -u X --unset=Y A=b C= /exports/bin/app"},
		{"env -i app", "env -i /exports/bin/app"},
		{"odd %f", `"/home/a b/50%%/\\$x" %f`},
		{"env --split-string=app", "error: env with the option"},
		{"env A=b", "error: env names no program"},
		{"env", "error: env names no program"},
		{`"/opt/My\sApp/app" %U`, "/exports/bin/app %U"},
		{`"/opt/My App/\\app" %U`, `error: unknown program /opt/My App/\app`},
		{`app "a\\\\b \\"c" 'd"e'`, `/exports/bin/app "a\\\\b \\"c" 'd"e'`},
		{"sh -c 'app %F'", "sh -c '/exports/bin/app %F'"},
		{`env A=b /bin/sh -c "LANG=C exec /usr/bin/app \\"\\$@\\"" sh %U`, `env A=b /bin/sh -c "LANG=C exec /exports/bin/app \\"\\$@\\"" sh %U`},
		{"sh -c other", "error: unknown program other"},
		{"sh -c odd", `error: cannot be written in a script`},
		{"sh -c 'app; other'", "error: more than one command"},
		{"sh -c '$APP x'", `error: the program "$APP" of its script`},
		{`sh -c "a"pp`, `error: the program "app" of its script`},
		{`sh -c "ap"'p x'`, `error: the program "app" of its script`},
		{`sh -c exec' 'app`, "sh -c exec' '/exports/bin/app"},
		{"sh -c 'exec '", "error: its script names no program"},
		{"sh app", "error: unknown program sh"},
		{"gapplication launch org.x.App %U", "/exports/bin/app %U"},
		{"env A=b gapplication launch org.x.App", "env A=b /exports/bin/app"},
		{"gapplication action org.x.App new-window", "gapplication action org.x.App new-window"},
		{"gapplication launch org.y", "error: unknown bus name org.y"},
		{"gapplication list-apps", "error: this use of gapplication"},
		{`app "open`, "error: a quote is not closed"},
		{`"" app`, "error: names no program"},
	} {
		f, err := Parse([]byte("[Desktop Entry]\nExec="+c.value+"\n"), Main)
		if err != nil {
			t.Fatal(err)
		}
		err = f.RewriteExec(Programs{find, named})
		got := f.Value(Main, "Exec")
		if err != nil {
			got = "error: " + err.Error()
			if !strings.Contains(got, "line 2: Exec=") {
				t.Errorf("Exec=%s: %v, want the line", c.value, err)
			}
		}
		if want, wrong := strings.CutPrefix(c.want, "error: "); wrong && !(err != nil && strings.Contains(got, want)) || !wrong && got != c.want {
			t.Errorf("Exec=%s\ngot  %s\nwant %s", c.value, got, c.want)
		}
	}
}

// FuzzRewrite: an accepted and rewritten file is still accepted, with the same keys, and a
// second rewrite changes nothing.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("[Desktop Entry]\nExec=sh -c \"exec a \\\\\"x\"\n[Desktop Action q]\nExec=gapplication launch a.b %U\n"))
	f.Add([]byte("[Desktop Entry]\nExec=env A='b c' \"x y\" %U\n[Desktop Action q]\nExec=\\\"x\n"))
	f.Add([]byte("[Desktop Entry]\nExec=sh -c \"00\"0"))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := Parse(content, Main)
		if err != nil {
			return
		}
		find := func(string) (string, error) { return "/exports/bin/x", nil }
		programs := Programs{find, find}
		if file.RewriteExec(programs) != nil {
			return
		}
		first := string(file.Bytes())
		again, err := Parse([]byte(first), Main)
		if err != nil {
			t.Fatalf("the rewritten file is refused: %v\n%q", err, first)
		}
		if err := again.RewriteExec(programs); err != nil {
			t.Fatalf("the rewritten Exec is refused: %v\n%q", err, first)
		}
		if second := string(again.Bytes()); second != first {
			t.Fatalf("rewritten twice: got\n%q\nwant as after the first time\n%q", second, first)
		}
	})
}
