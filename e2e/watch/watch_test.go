package watch

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name     = "org.lull.fleet"
	machines = 20
	atOnce   = 5 // of their agents; most of them wait for their metrics
	limit    = 2 * time.Minute
)

// freeAddress returns an address that no program listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// source writes a package whose health check fails on machines that have a file "broken".
func source(t *testing.T, dir, version string) string {
	t.Helper()
	health := "#!/bin/sh\ntest ! -e \"${LULL_PACKAGE_DIR%/packages/*}/../broken\"\n"
	if version == "1" {
		health = "#!/bin/sh\n"
	}
	for path, text := range map[string]string{
		"lull.yaml":  "name: " + name + "\nversion: \"" + version + "\"\nhooks: {health: bin/health}\n",
		"bin/health": health,
	} {
		path = filepath.Join(dir, version, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, version)
}

// broken reports whether the new version fails on a machine: on five of the first nineteen.
func broken(i int) bool { return i%4 == 1 }

// fleet are machines with an application in version 1. Each has its agent until it has tried
// version 2, and a node exporter throughout.
type fleet struct {
	*rig.World            // of the publisher
	old        string     // a copy of the repository with version 1
	figures    []string   // what the exporters read, by machine
	turn       sync.Mutex // of the machines: they share the freezer hierarchy of the host
}

// machine is one that has version 1, follows the repository and has tried to refresh.
func (f *fleet) machine(t *testing.T, broken bool) *rig.World {
	t.Helper()
	w := rig.New(t, rig.Options{Tracker: "poll"})
	if err := os.Mkdir(w.Path("figures"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Watch(w.Path("figures"))
	w.Configure("policy.yaml", "schedule: {check: 31d}\nmetrics: {textfile: "+w.Path("figures", "lull.prom")+"}\n")
	w.Configure("policy.d/10-asked.yaml", "defaults: {auto-refresh: false}\n")
	if broken {
		if err := os.WriteFile(w.Path("broken"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.StartAgent()
	w.MustLull("repo", "add", "fleet", f.old)
	f.turn.Lock()
	defer f.turn.Unlock()
	w.MustLull("install", name)
	w.MustLull("repo", "set-url", "fleet", f.Repo)
	w.Lull("refresh", name) // it fails on broken machines
	return w
}

// try returns when the exporter has the metrics of a machine that has tried version 2.
func (f *fleet) try(t *testing.T, i int) {
	w := f.machine(t, broken(i))
	var text []byte
	w.Until("the metrics have version 2", limit, func() (bool, string) {
		var err error
		text, err = os.ReadFile(w.Path("figures", "lull.prom"))
		return err == nil && strings.Contains(string(text), `version="2"`), string(text)
	})
	if undone := strings.Contains(string(text), "lull_refresh_undone_timestamp_seconds{"); undone != broken(i) {
		t.Errorf("version 2 was undone: %t, want %t", undone, broken(i))
	}
	// An agent that ends removes its file.
	if err := os.WriteFile(filepath.Join(f.figures[i], "lull.new"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(f.figures[i], "lull.new"), filepath.Join(f.figures[i], "lull.prom")); err != nil {
		t.Fatal(err)
	}
}

// TestHaltByItself: a version that is undone on five of nineteen machines is halted, with the
// reason, and a twentieth machine does not get it.
func TestHaltByItself(t *testing.T) {
	require.Root(t)
	prometheus, exporter := require.Program(t, "prometheus"), require.Program(t, "prometheus-node-exporter")
	w := rig.New(t, rig.Options{Tracker: "poll"})
	f := &fleet{World: w, old: w.Path("old")}
	w.MustLull("repo", "init", w.Repo)
	w.MustLull("publish", "--repo", w.Repo, source(t, w.Path("source"), "1"))
	if err := os.CopyFS(f.old, os.DirFS(w.Repo)); err != nil {
		t.Fatal(err)
	}
	w.MustLull("publish", "--repo", w.Repo, "--deltas-from", "0", source(t, w.Path("source"), "2"))

	var targets []string
	for i := range machines {
		figures, address := w.Path("figures", fmt.Sprint(i)), freeAddress(t)
		if err := os.MkdirAll(figures, 0o755); err != nil {
			t.Fatal(err)
		}
		w.Admin.Start(exporter, "--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory="+figures, "--web.listen-address="+address)
		f.figures, targets = append(f.figures, figures), append(targets, "'"+address+"'")
	}
	address := freeAddress(t)
	conf := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: fleet\n  static_configs: [{targets: [%s]}]\n", strings.Join(targets, ", "))
	rule := fmt.Sprintf("above: 20%%\nat-least: %d\n", machines-1)
	for file, text := range map[string]string{"prometheus.yml": conf, "rule.yaml": rule} {
		if err := os.WriteFile(w.Path(file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.Admin.Start(prometheus, "--config.file="+w.Path("prometheus.yml"), "--storage.tsdb.path="+w.Path("tsdb"), "--web.listen-address="+address)

	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range machines - 2 {
		g.Go(func() error {
			if !t.Run(fmt.Sprint("machine-", i), func(t *testing.T) { f.try(t, i) }) {
				return errors.New("it has failed")
			}
			return nil
		})
	}
	if g.Wait() != nil {
		t.FailNow()
	}
	watch := []string{"channel", "watch", name, "--repo", w.Repo, "--prometheus", "http://" + address, "--rule", w.Path("rule.yaml"), "--every", "1s"}
	done := make(chan rig.Result, 1)
	go func() { done <- w.Admin.RunWithin(limit, filepath.Join(w.Bin, "lull"), watch...) }()
	t.Run("machine-18", func(t *testing.T) { f.try(t, machines-2) })
	r := <-done
	if reason := "failed on 5 of 19 machines (26.3%)"; r.Code != 0 || !strings.Contains(r.Stdout, "halted") || !strings.Contains(r.Stdout, reason) {
		t.Errorf("lull channel watch: %v, want it halted because it %s", r, reason)
	}
	show := w.MustLull("channel", "show", name, "--repo", w.Repo).Stdout
	if !strings.Contains(show, name+" 2 in channel stable: halted") || !strings.Contains(show, " of 19 machines (") {
		t.Errorf("channel show: want version 2 halted on some of 19 machines, got\n%s", show)
	}
	last := f.machine(t, false)
	if list := last.MustLull("list").Stdout; !strings.Contains(list, name) || strings.Contains(list, " 2 ") {
		t.Errorf("the list of the last machine: want %s without version 2, got\n%s", name, list)
	}
}
