package watch

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name     = "org.lull.fleet"
	machines = 8
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

// TestHaltByItself: a version that is undone on three of seven machines is halted, with the
// reason, and an eighth machine does not get it.
func TestHaltByItself(t *testing.T) {
	require.Root(t)
	prometheus, exporter := require.Program(t, "prometheus"), require.Program(t, "prometheus-node-exporter")
	var fleet []*rig.World
	var targets []string
	for i := range machines {
		w := rig.New(t, rig.Options{Tracker: "poll"})
		fleet = append(fleet, w)
		figures := w.Path("figures")
		if err := os.Mkdir(figures, 0o755); err != nil {
			t.Fatal(err)
		}
		w.Configure("policy.yaml", "schedule: {check: 31d}\nmetrics: {textfile: "+figures+"/lull.prom}\n")
		w.Configure("policy.d/10-asked.yaml", "defaults: {auto-refresh: false}\n")
		if i == 0 {
			w.MustLull("repo", "init", w.Repo)
			w.MustLull("publish", "--repo", w.Repo, source(t, w.Path("source"), "1"))
		}
		w.StartAgent()
		w.MustLull("repo", "add", "fleet", fleet[0].Repo)
		w.MustLull("install", name)
		address := freeAddress(t)
		targets = append(targets, "'"+address+"'")
		w.Admin.Start(exporter, "--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory="+figures, "--web.listen-address="+address)
	}
	w := fleet[0]
	address := freeAddress(t)
	conf := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: fleet\n  static_configs: [{targets: [%s]}]\n", strings.Join(targets, ", "))
	for file, text := range map[string]string{"prometheus.yml": conf, "rule.yaml": "above: 20%\nat-least: 5\n"} {
		if err := os.WriteFile(w.Path(file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.Admin.Start(prometheus, "--config.file="+w.Path("prometheus.yml"), "--storage.tsdb.path="+w.Path("tsdb"), "--web.listen-address="+address)

	w.MustLull("publish", "--repo", w.Repo, source(t, w.Path("source"), "2"))
	watch := []string{"channel", "watch", name, "--repo", w.Repo, "--prometheus", "http://" + address, "--rule", w.Path("rule.yaml"), "--every", "1s"}
	done := make(chan rig.Result, 1)
	go func() { done <- w.Admin.RunWithin(limit, filepath.Join(w.Bin, "lull"), watch...) }()

	for i, m := range fleet[:machines-1] {
		if i >= 4 {
			if err := os.WriteFile(filepath.Join(m.Store, "..", "broken"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m.Lull("refresh", name) // it fails on broken machines
	}
	r := <-done
	if r.Code != 0 || !strings.Contains(r.Stdout, "halted") || !strings.Contains(r.Stdout, "failed on ") {
		t.Errorf("lull channel watch: %v", r)
	}
	show := w.MustLull("channel", "show", name, "--repo", w.Repo).Stdout
	if !strings.Contains(show, name+" 2 in channel stable: halted") || !strings.Contains(show, " machines (") {
		t.Errorf("the channel is\n%s", show)
	}
	last := fleet[machines-1]
	last.Lull("refresh", name)
	if list := last.MustLull("list").Stdout; !strings.Contains(list, name) || strings.Contains(list, " 2 ") {
		t.Errorf("the last machine has\n%s", list)
	}
}
