package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// architectures are Debian's names of architectures where they differ from Go's.
var architectures = map[string]string{"386": "i386", "arm": "armhf", "ppc64le": "ppc64el", "mipsle": "mipsel", "mips64le": "mips64el", "loong64": "loong64"}

// Architecture is that of this machine in the words of dpkg --print-architecture.
func Architecture() string {
	if a := architectures[runtime.GOARCH]; a != "" {
		return a
	}
	return runtime.GOARCH
}

// suite and component are words of a sources.list that become parts of paths.
var (
	word = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]*(/[A-Za-z0-9.+~_-]+)*/?$`)
	})
	packageName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{1,127}$`) }) // deb-control(5)
)

// ParseLine reads a line of a sources.list in the one-line style (sources.list(5)):
//
//	deb [signed-by=KEY] URL SUITE COMPONENT...
//
// The options arch and signed-by are understood; signedBy is the value of the latter. Kind
// Invalid: the line cannot be followed.
func ParseLine(line string) (s repo.Apt, signedBy string, err error) {
	bad := func(format string, args ...any) (repo.Apt, string, error) {
		return s, "", errkind.New(errkind.Invalid, "cannot use the apt source %.200q: "+format, append([]any{line}, args...)...).
			WithHint("want a line like: deb [signed-by=KEY] URL SUITE COMPONENT")
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
	if !ok {
		return bad("it does not begin with deb")
	}
	if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
		options, after, closed := strings.Cut(rest[1:], "]")
		if !closed {
			return bad("its options have no end")
		}
		rest = after
		for _, o := range strings.Fields(options) {
			key, value, _ := strings.Cut(o, "=")
			switch strings.ToLower(key) {
			case "signed-by":
				signedBy = value
			case "arch":
				if !slices.Contains(strings.Split(value, ","), Architecture()) {
					return bad("it is for %s, and this machine is %s", value, Architecture())
				}
			case "trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure", "check-valid-until", "check-date":
				return bad("the option %s is not possible: a source is always verified", key)
			default:
				return bad("the option %.40q is unknown", key)
			}
		}
	}
	words := strings.Fields(rest)
	if len(words) < 2 {
		return bad("it has no suite")
	}
	s = repo.Apt{URL: words[0], Suite: words[1], Components: words[2:]}
	if err := Check(s); err != nil {
		return bad("%w", err)
	}
	return s, signedBy, nil
}

// MaxSources bounds a .sources file, in bytes.
const MaxSources = 1 << 20

// ParseSources reads a .sources file (sources.list(5), "deb822-style format") with one enabled
// source of packages, which has one URI and one suite. Of signedBy, a path, and keys, embedded
// ones, at most one has a value. Kind Invalid: the file cannot be followed.
func ParseSources(content []byte) (s repo.Apt, signedBy string, keys []byte, err error) {
	bad := func(format string, args ...any) (repo.Apt, string, []byte, error) {
		return s, "", nil, errkind.New(errkind.Invalid, "cannot use the apt sources: "+format, args...).
			WithHint("name a source by its line: deb [signed-by=KEY] URL SUITE COMPONENT")
	}
	if len(content) > MaxSources {
		return bad("the file has more than %d bytes", MaxSources)
	}
	insecure := []string{"trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure", "check-valid-until", "check-date"}
	f := newFields(bytes.NewReader(content), append([]string{"types", "uris", "suites", "components", "signed-by", "architectures", "enabled"}, insecure...)...)
	var only map[string]string
	for {
		v, err := f.next()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case err != nil:
			return bad("%w", err)
		case v["enabled"] != "" && !slices.Contains([]string{"yes", "true", "1", "on", "with", "enable"}, strings.ToLower(v["enabled"])), !slices.Contains(strings.Fields(v["types"]), "deb"):
			continue
		case only != nil:
			return bad("the file has several")
		}
		only = v
	}
	if only == nil {
		return bad("the file has no enabled one of type deb")
	}
	for _, key := range insecure {
		if only[key] != "" {
			return bad("the field %s is not possible: a source is always verified", key)
		}
	}
	if archs := strings.Fields(only["architectures"]); len(archs) > 0 && !slices.Contains(archs, Architecture()) {
		return bad("it is for %s, and this machine is %s", strings.Join(archs, " "), Architecture())
	}
	uris, suites := strings.Fields(only["uris"]), strings.Fields(only["suites"])
	if len(uris) != 1 || len(suites) != 1 {
		return bad("it has %d URIs and %d suites, and one of each is wanted", len(uris), len(suites))
	}
	s = repo.Apt{URL: uris[0], Suite: suites[0], Components: strings.Fields(only["components"])}
	if err := Check(s); err != nil {
		return bad("%w", err)
	}
	if signed := strings.TrimSpace(only["signed-by"]); strings.HasPrefix(signed, keyBegins) {
		keys = []byte(strings.ReplaceAll(signed+"\n", "\n.\n", "\n\n"))
	} else if paths := strings.Fields(signed); len(paths) > 1 {
		return bad("its Signed-By names several files")
	} else {
		signedBy = signed
	}
	return s, signedBy, keys, nil
}

// Check returns an error unless a source has an address and a suite. A suite that ends
// with a slash is a path, and has no components.
func Check(s repo.Apt) error {
	if u, err := url.Parse(s.URL); err != nil || u.Scheme == "" && !strings.HasPrefix(s.URL, "/") {
		return fmt.Errorf("it has no url like https://HOST/PATH")
	}
	f, err := repo.OpenFiles(s.URL, repo.Network{})
	if err != nil {
		return err
	}
	f.Close()
	if strings.Contains(s.Suite, "..") || !word().MatchString(s.Suite) && s.Suite != "./" && s.Suite != "/" {
		return fmt.Errorf("%.80q is no suite", s.Suite)
	}
	switch flat := strings.HasSuffix(s.Suite, "/"); {
	case flat && len(s.Components) > 0:
		return fmt.Errorf("the suite %q is a path, and has no components", s.Suite)
	case !flat && len(s.Components) == 0:
		return fmt.Errorf("it has no component")
	}
	for _, c := range s.Components {
		if strings.Contains(c, "..") || !word().MatchString(c) || strings.HasSuffix(c, "/") {
			return fmt.Errorf("%.80q is no component", c)
		}
	}
	return nil
}

// maxMerged bounds the packages of a source that become one.
const maxMerged = 32

// ParsePackage reads NAME, or NAME=PACKAGE,PACKAGE...: the name of a package of lull, and
// those of the packages of the source that it is made of. Kind Invalid.
func ParsePackage(text string) (name string, packages []string, err error) {
	name, list, merged := strings.Cut(text, "=")
	packages = []string{name}
	if merged {
		packages = strings.Split(list, ",")
	}
	if len(packages) > maxMerged {
		return "", nil, errkind.New(errkind.Invalid, "cannot follow %.80q: it has more than %d packages", name, maxMerged)
	}
	for _, p := range packages {
		if !packageName().MatchString(p) {
			return "", nil, errkind.New(errkind.Invalid, "cannot follow %.80q: it is no name of a Debian package", p)
		}
	}
	return name, packages, nil
}
