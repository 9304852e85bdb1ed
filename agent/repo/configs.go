package repo

import (
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/policy/strictyaml"
)

// Config is one configured repository.
type Config struct {
	Name string
	URL  string // http://, https://, file:// or an absolute path
	Root []byte // the trusted root.json
}

type configFile struct {
	URL  string `yaml:"url"`
	Root string `yaml:"root"` // path, relative to the file's folder
}

// LoadConfigs reads the repositories of a folder: each NAME.yaml that does not
// begin with a dot configures the repository NAME. A folder that does not exist
// has none. The error is of kind BadPolicy and names file and line.
func LoadConfigs(dir string) ([]Config, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, problem.New(problem.BadPolicy, "cannot read repositories: %w", err)
	}
	var configs []Config
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		c, err := loadConfig(filepath.Join(dir, e.Name()), name)
		if err != nil {
			return nil, err
		}
		configs = append(configs, c)
	}
	return configs, nil
}

func loadConfig(path, name string) (Config, error) {
	bad := func(err error) (Config, error) {
		return Config{}, problem.New(problem.BadPolicy, "%w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, problem.New(problem.BadPolicy, "cannot read repositories: %w", err)
	}
	var f configFile
	doc, err := strictyaml.Parse(path, data)
	if err == nil {
		err = doc.Decode(&f)
	}
	if err != nil {
		return bad(err)
	}
	if meta.ValidName(name) != nil {
		return bad(doc.Errorf("", "cannot use %.80q as the name of a repository: want a-z, 0-9, '.' and '-'", name))
	}
	if f.URL == "" {
		return bad(doc.Errorf("url", "cannot use a repository without url"))
	}
	if _, err := parseURL(f.URL); err != nil {
		return bad(doc.Errorf("url", "cannot use the url %.200q: %s", f.URL, err))
	}
	if f.Root == "" {
		return bad(doc.Errorf("root", "cannot use a repository without root: name the file of its trusted root.json"))
	}
	if !filepath.IsAbs(f.Root) {
		f.Root = filepath.Join(filepath.Dir(path), f.Root)
	}
	root, err := readLimited(f.Root, maxRoot)
	if err != nil {
		return bad(doc.Errorf("root", "cannot read the root of trust: %s", err))
	}
	return Config{Name: name, URL: f.URL, Root: root}, nil
}

// parseURL accepts what a repository can be at. A path becomes a file URL.
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

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.New("the file is too large")
	}
	return data, err
}
