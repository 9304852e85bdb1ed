package main

import "github.com/lull/lull/e2e/rig"

// row is one line of the report, before it is measured.
type row struct {
	id   string
	what string // at most 44 columns; the peer is named beside it
	unit string
	peer string // "" where there is none, and the figure alone counts
	goal float64
}

// of returns what the goal bounds.
func (r row) of() string {
	if r.peer == "" {
		return ofOurs
	}
	return ofRatio
}

// The quantity that a goal bounds: ours divided by theirs, or ours alone.
const (
	ofRatio = "ratio"
	ofOurs  = "ours"
)

// scene takes the samples of its rows.
type scene struct {
	name    string
	systemd bool // played in a container
	shared  bool // there in a unit of the user's with other processes, as what a terminal starts
	rows    []row
	play    func(rig.TB) results
	beside  func(rig.TB, results) // adds notes from outside the container; may be nil
}

// results are the samples of a scene, by the id of the row.
type results map[string]samples

// samples are what was measured for a row.
type samples struct {
	Ours   []float64 `json:"ours"`
	Theirs []float64 `json:"theirs,omitempty"`
	Notes  []string  `json:"notes,omitempty"` // what else was seen, for people
}

const bestDelta = "best of ostree, zstd, casync, xdelta3, bsdiff"

var scenes = []scene{
	{name: "launch", systemd: true, shared: true, play: playLaunch, beside: besideLaunch, rows: []row{
		{"launch", "a tracked launch from a desktop, beyond plain exec", "ms", "the least: a static C program", 1.3},
		{"launch-scope", "the same from a terminal", "ms", "the least: a static C program", 1.3},
	}},
	{name: "layout", systemd: true, play: playLayout, beside: besideLayout, rows: []row{
		{"launch-layout", "what a layout of two paths adds to a launch", "ms", "", 5},
	}},
	{name: "vacancy", systemd: true, play: playVacancy, rows: []row{
		{"vacancy", "last exit until the door is shut", "ms", "bare inotify watcher", 2},
	}},
	{name: "leases", play: playLeases, rows: []row{
		{"vacancy-5000", "what the check costs under the lock", "ms", "", 5},
	}},
	{name: "release", play: playRelease, rows: []row{
		{"release-agent", "the release agent at work", "ms", "empty static C program", 1.1},
	}},
	{name: "idle", play: playIdle, rows: []row{
		{"idle-wakeups", "context switches of the idle agent in a minute", "switches", "", 2},
		{"idle-memory", "the agent's resident memory, 100 packages", "MiB", "", 15},
	}},
	{name: "data", play: playData, rows: []row{
		{"data-blocked", "launch blocked, 2 GB of data, 1 % changed", "ms", "cp -a, then sync", 0.05},
		{"data-flat", "launch blocked, 2 GB of data, 1 % changed", "ms", "the same with 100 MB", 1.5},
	}},
	{name: "store", play: playStore, rows: []row{
		{"install", "the Go toolchain installed, durable", "ms", "best of ostree, nix, casync", 0.8},
		{"install-resident", "installed, its files are in the store", "ms", "ostree checkout -H, syncfs", 1},
		{"gc", "the Go toolchain collected", "ms", "ostree prune, rm of the checkout", 0.9},
		{"refresh-small", "a refresh that changes 1 % of the files", "ms", "the full install", 0.5},
	}},
	{name: "convert", play: playConvert, rows: []row{
		{"convert", "an AppImage of the Go toolchain, published", "ms", "unsquashfs, tar, zstd -T2", 1.5},
		{"install-file", "a .deb of it installed, its program started", "ms", "dpkg -i, its program started", 2},
	}},
	{name: "scale", play: playScale, rows: []row{
		{"gc-scale", "half of 1,000,000 blobs collected, per blob", "µs", "the same with 100,000", 1.3},
		{"gc-resolve-p99", "resident resolve during it, 99th percentile", "ms", "", 2},
		{"agent-start", "start of the agent with 1,000,000 blobs", "ms", "", 1000},
	}},
	{name: "ephemeral", play: playEphemeral, rows: []row{
		{"ephemeral", "a resident package run, 10,000 to choose from", "ms", "the same with two packages", 1.2},
		{"ephemeral-20", "the same, one of twenty at once", "ms", "one alone", 0.8},
	}},
	{name: "many", systemd: true, play: playMany, rows: []row{
		{"list-200", "lull list, 200 packages and 800 cgroups", "ms", "the same with one package", 2},
		{"refresh-tiny", "CPU of the agent for a tiny refresh, the same", "ms", "the same with one package", 1.3},
	}},
	{name: "libreoffice", play: libreoffice.play, rows: []row{
		{"delta-libreoffice", "libreoffice-core, a security update", "bytes", bestDelta, 0.2},
		{"delta-encode", "processor time of making that delta", "s", "zstd -19 --patch-from", 1},
		{"delta-decode", "processor time of using it, per megabyte", "ms", "", 20},
		{"first-libreoffice", "libreoffice-core, the first installation", "bytes", "the .deb", 1},
	}},
	{name: "kernel", play: kernel.play, rows: []row{
		{"delta-kernel", "a cloud kernel, three builds later", "bytes", bestDelta, 0.7},
		{"first-kernel", "a cloud kernel, the first installation", "bytes", "the .deb", 1},
	}},
	{name: "firefox", play: firefox.play, rows: []row{
		{"delta-firefox", "firefox-esr, 140 to 153", "bytes", bestDelta, 1},
		{"first-firefox", "firefox-esr, the first installation", "bytes", "the .deb", 1},
	}},
	{name: "firefox-security", play: neighbours.play, rows: []row{
		{"delta-firefox-security", "firefox-esr, to the next security update", "bytes", bestDelta, 1},
	}},
	{name: "lulld", play: playLulld, rows: []row{
		{"delta-lulld", "lulld, 60 commits later", "bytes", bestDelta, 1},
	}},
	{name: "toolchain", play: playToolchain, rows: []row{
		{"toolchain-requests", "the Go toolchain installed from a web server", "requests", "", 10},
		{"toolchain-rtt", "the same, where an answer takes 20 ms", "ms", "", 6000},
	}},
	{name: "delivery", play: playDelivery, rows: []row{
		{"check-idle-requests", "a check without news, of 10,000 packages", "requests", "", 1},
		{"check-idle-bytes", "the same, request and response on nginx", "bytes", "", 500},
		{"check-idle-bytes-s3", "the same, in an S3 object store", "bytes", "", 500},
		{"check-idle-cpu", "the same, processor time of the client", "ms", "", 20},
		{"check-root-requests", "a check that requests the next root, too", "requests", "", 2},
		{"check-root-bytes", "the same, request and response on nginx", "bytes", "", 1000},
		{"check-changed", "a check: 200 of 10,000 changed, 20 installed", "requests", "", 7},
		{"check-changed-bytes", "the same, request and response on nginx", "kB", "", 10},
		{"publish-100k", "a publication among 100,000 packages", "ms", "", 50},
	}},
	{name: "fleet", play: playFleet, rows: []row{
		{"fleet", "requests of a machine in a day, updates and faults included", "requests", "", 16},
		{"fleet-bytes", "the same: metadata and small packages", "kB", "", 12},
		{"fleet-herd", "machines that check within the worst minute", "%", "", 6},
	}},
}

// find returns the scene and the row of an id, which may also be the name of a scene.
func find(id string) (scene, row, bool) {
	for _, s := range scenes {
		if s.name == id {
			return s, s.rows[0], true
		}
		for _, r := range s.rows {
			if r.id == id {
				return s, r, true
			}
		}
	}
	return scene{}, row{}, false
}
