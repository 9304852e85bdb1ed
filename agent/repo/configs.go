package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/policy"
	"github.com/lull/lull/policy/strictyaml"
)

// Config is one configured repository.
type Config struct {
	Name string
	URL  string // http://, https://, file:// or an absolute path
	Root []byte // the trusted root.json
	// Mirrors are further addresses with copies of the repository, in the form of URL.
	Mirrors []string
	// Names are the packages that it may offer: names, and beginnings of names that end in
	// '*'. Nil means all.
	Names []string
	// Priority decides between repositories that offer a package: the highest one does, and
	// several of them are ambiguous.
	Priority int

	// Authorization is the value of that header (RFC 9110, section 11.6.2), or "".
	Authorization string
	// Exposed means that every user of the machine can read a password in the file.
	Exposed bool
	// Apt is an apt repository that is followed, or nil. With it, URL and Root are those
	// of the local repository of its packages: see package local.
	Apt *Apt
	// Watch is a directory whose files become packages, an absolute path, or "". With it,
	// URL and Root are those of the local repository of these packages.
	Watch string
	// Dial connects to servers. Nil means the network of the machine.
	Dial Dialer
	// Limit bounds the rate at which content is fetched. Nil means no limit.
	Limit *Limit
	// Proxy returns the proxy of the policy. Nil means those of the environment.
	Proxy func() policy.Proxy
	// MirrorsChanged, which may be nil, is called after the state of a mirror has changed. It
	// must not block.
	MirrorsChanged func()
}

// Dialer connects to an address, like net.Dialer.DialContext.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Follows reports whether the repository is one of this machine that follows another source.
func (c Config) Follows() bool { return c.Apt != nil || c.Watch != "" }

// Apt is an apt source with the list of followed packages: see package apt.
type Apt struct {
	URL        string
	Suite      string   // a suite that ends with a slash is a path, without components
	Components []string // sections of the suite
	Keys       []byte   // OpenPGP public keys
	Packages   []string // NAME or NAME=PACKAGE,PACKAGE...
}

// Line returns the source in the form of a sources.list, without a password.
func (a *Apt) Line() string {
	return strings.Join(append([]string{"deb", shown(a.URL), a.Suite}, a.Components...), " ")
}

func (a *Apt) equal(b *Apt) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.URL == b.URL && a.Suite == b.Suite && slices.Equal(a.Components, b.Components) && bytes.Equal(a.Keys, b.Keys) && slices.Equal(a.Packages, b.Packages)
}

// Address returns the URL without a password, the source of apt, or the watched directory.
func (c Config) Address() string {
	switch {
	case c.Apt != nil:
		return c.Apt.Line()
	case c.Watch != "":
		return c.Watch
	}
	return shown(c.URL)
}

// Equal reports whether both configure the same repository in the same way; how servers are reached does not count.
func (c Config) Equal(d Config) bool {
	return c.Name == d.Name && c.URL == d.URL && c.Authorization == d.Authorization && slices.Equal(c.Mirrors, d.Mirrors) && bytes.Equal(c.Root, d.Root) &&
		slices.Equal(c.Names, d.Names) && c.Priority == d.Priority &&
		c.Apt.equal(d.Apt) && c.Watch == d.Watch
}

// Broken is a file in the directory that fails to configure a repository.
type Broken struct {
	Name string // of the repository
	Err  error  // of kind BadPolicy; names file and line
}

type configFile struct {
	URL         string   `yaml:"url"`
	Root        string   `yaml:"root"`        // path, relative to the file's directory
	Credentials string   `yaml:"credentials"` // path likewise, or the name of a systemd credential
	Mirrors     []string `yaml:"mirrors"`
	Names       []string `yaml:"names"`
	Priority    int      `yaml:"priority"`
	Watch       string   `yaml:"watch"`
	Apt         *struct {
		URL        string   `yaml:"url"`
		Suite      string   `yaml:"suite"`
		Components []string `yaml:"components"`
		Key        string   `yaml:"key"` // path likewise
		Packages   []string `yaml:"packages"`
	} `yaml:"apt"`
}

// LoadConfigs reads the repositories of a directory: each NAME.yaml that does not begin with
// a dot configures the repository NAME. A missing directory has none. A file that cannot be
// used is listed as broken and does not affect the others. The error is of kind BadPolicy:
// the directory cannot be read.
func LoadConfigs(dir string) (configs []Config, broken []Broken, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, errkind.New(errkind.BadPolicy, "cannot read repositories: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		c, err := loadConfig(filepath.Join(dir, e.Name()), name)
		if err != nil {
			broken = append(broken, Broken{name, err})
			continue
		}
		configs = append(configs, c)
	}
	return configs, broken, nil
}

// maxMirrors bounds the mirrors of a repository.
const maxMirrors = 16

// maxConfig bounds a file of the directory, in bytes.
const maxConfig = 64 << 10

// maxKeys bounds a file with signing keys, in bytes.
const maxKeys = 1 << 20

func loadConfig(path, name string) (Config, error) {
	bad := func(err error) (Config, error) {
		return Config{}, errkind.New(errkind.BadPolicy, "%w", err)
	}
	data, err := readLimited(path, maxConfig)
	if err != nil {
		return Config{}, errkind.New(errkind.BadPolicy, "cannot read the repository %.80q: %w", name, err)
	}
	var f configFile
	doc, err := strictyaml.Parse(path, data)
	if err == nil {
		err = doc.Decode(&f)
	}
	if err != nil {
		return bad(err)
	}
	if manifest.ValidLabel(name) != nil {
		return bad(doc.Errorf("", "cannot use %.80q as the name of a repository: want a-z, 0-9, '.' and '-'", name))
	}
	beside := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(filepath.Dir(path), p)
	}
	if err := checkNames(doc, &f); err != nil {
		return bad(err)
	}
	if f.Watch != "" {
		if f.Names != nil || f.URL != "" || f.Root != "" || f.Credentials != "" || f.Mirrors != nil || f.Apt != nil {
			return bad(doc.Errorf("watch", "cannot use watch together with other keys than priority"))
		}
		if !filepath.IsAbs(f.Watch) {
			return bad(doc.Errorf("watch", "cannot watch %.200q: want an absolute path", f.Watch))
		}
		return Config{Name: name, Watch: filepath.Clean(f.Watch), Priority: f.Priority}, nil
	}
	if f.Apt != nil {
		if f.URL != "" || f.Root != "" || f.Credentials != "" || f.Mirrors != nil || f.Names != nil {
			return bad(doc.Errorf("apt", "cannot use apt together with url, root, credentials, mirrors or names"))
		}
		if f.Apt.Key == "" {
			return bad(doc.Errorf("apt", "cannot use an apt repository without key: name the file of its signing key"))
		}
		keys, err := readLimited(beside(f.Apt.Key), maxKeys)
		if err != nil {
			return bad(doc.Errorf("apt", "cannot read the signing key: %s", err))
		}
		return Config{Name: name, Apt: &Apt{f.Apt.URL, f.Apt.Suite, f.Apt.Components, keys, f.Apt.Packages}, Priority: f.Priority}, nil
	}
	if f.URL == "" {
		return bad(doc.Errorf("url", "cannot use a repository without url"))
	}
	u, err := parseURL(f.URL)
	if err != nil {
		return bad(doc.Errorf("url", "cannot use the url %.200q: %s", shown(f.URL), err))
	}
	if f.Root == "" {
		return bad(doc.Errorf("root", "cannot use a repository without root: name the file of its trusted root.json"))
	}
	root, err := readLimited(beside(f.Root), maxRoot)
	if err != nil {
		return bad(doc.Errorf("root", "cannot read the root of trust: %s", err))
	}
	if len(f.Mirrors) > maxMirrors {
		return bad(doc.Errorf("mirrors", "cannot use %d mirrors: at most %d are allowed", len(f.Mirrors), maxMirrors))
	}
	for _, m := range f.Mirrors {
		if _, err := parseURL(m); err != nil {
			return bad(doc.Errorf("mirrors", "cannot use the mirror %.200q: %s", shown(m), err))
		}
	}
	c := Config{Name: name, URL: f.URL, Root: root, Mirrors: f.Mirrors, Names: f.Names, Priority: f.Priority}
	if err := checkRoot(c); err != nil {
		return bad(doc.Errorf("root", "%s", err))
	}
	if _, secret := u.User.Password(); secret {
		c.Exposed = readableByOthers(path)
	}
	if f.Credentials == "" {
		return c, nil
	}
	file := beside(f.Credentials)
	if !strings.Contains(f.Credentials, "/") && !exists(file) {
		dir := os.Getenv("CREDENTIALS_DIRECTORY") // systemd.exec(5)
		if dir == "" {
			return bad(doc.Errorf("credentials", "cannot use the credentials %.80q: there is neither such a file nor a directory of systemd credentials", f.Credentials))
		}
		file = filepath.Join(dir, f.Credentials)
	} else {
		c.Exposed = c.Exposed || readableByOthers(file)
	}
	text, err := readLimited(file, maxConfig)
	if err == nil {
		c.Authorization, err = authorization(string(text))
	}
	if err != nil {
		return bad(doc.Errorf("credentials", "cannot use the credentials %.80q: %s", f.Credentials, err))
	}
	return c, nil
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func readableByOthers(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().Perm()&0o004 != 0
}

// authorization makes a header from a line "USER:PASSWORD" (RFC 7617) or "Bearer TOKEN" (RFC
// 6750).
func authorization(text string) (string, error) {
	line := strings.TrimRight(text, "\r\n")
	switch user, _, found := strings.Cut(line, ":"); {
	case strings.ContainsAny(line, "\r\n\x00"):
		return "", errors.New("want one line")
	case strings.HasPrefix(line, "Bearer ") && strings.TrimSpace(line[7:]) != "":
		return line, nil
	case !found || user == "":
		return "", errors.New("want USER:PASSWORD or Bearer TOKEN")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(line)), nil
}

// SplitPassword returns a URL without its password, and the line of a file with
// credentials that replaces it; "" means that there is none.
func SplitPassword(s string) (address, credentials string) {
	u, err := parseURL(s)
	if err != nil {
		return s, ""
	}
	password, secret := u.User.Password()
	if !secret {
		return s, ""
	}
	credentials = u.User.Username() + ":" + password + "\n"
	u.User = nil
	return u.String(), credentials
}

// parseURL accepts the supported addresses of a repository. A path becomes a file URL.
func parseURL(s string) (*url.URL, error) {
	if strings.HasPrefix(s, "/") {
		return &url.URL{Scheme: "file", Path: filepath.Clean(s)}, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("it is no URL")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("it has a query or a fragment")
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && strings.HasPrefix(u.Path, "/"):
		return &url.URL{Scheme: "file", Path: filepath.Clean(u.Path)}, nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return u, nil
	}
	return nil, errors.New("want http://HOST/…, https://HOST/…, file:///… or an absolute path")
}

// readLimited reads a regular file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New("it is no regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.New("the file is too large")
	}
	return data, err
}
