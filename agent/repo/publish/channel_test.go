package publish_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

const rolling = "org.example.rolling"

var byTime = []repo.Step{{Percent: 1}, {Percent: 10, After: 6 * 3600}, {Percent: 100, After: 48 * 3600}}

// channel is a repository with a clock for its publisher.
type channel struct {
	t   *testing.T
	dir string
	now time.Time
}

func newChannel(t *testing.T) *channel {
	t.Helper()
	return &channel{t, initRepo(t), time.Now().UTC().Truncate(time.Second)}
}

func (c *channel) publish(version string, o publish.Options) {
	c.t.Helper()
	o.Now = c.now
	_, err := publish.Publish(c.t.Context(), c.dir, source(c.t, map[string]string{"lull.yaml": "name: " + rolling + "\nversion: \"" + version + "\"\n", "v": version}), o)
	must(c.t, err)
}

func (c *channel) options() publish.ChannelOptions {
	return publish.ChannelOptions{Common: publish.Common{Now: c.now}, Name: rolling}
}

// offers returns the offers that readers get, and compares them with the publisher's.
func (c *channel) offers(channel string) repo.Offers {
	c.t.Helper()
	list, err := open(c.t, c.dir).Offers(c.t.Context(), rolling, channel)
	must(c.t, err)
	o := c.options()
	o.Channel = channel
	own, err := publish.ReadChannel(c.t.Context(), c.dir, o)
	if err != nil || summary(own, c.now) != summary(list, c.now) {
		c.t.Errorf("the publisher sees %s (%v), want what readers see: %s", summary(own, c.now), err, summary(list, c.now))
	}
	return list
}

func (c *channel) wants(want string) {
	c.t.Helper()
	if got := summary(c.offers("stable"), c.now); got != want {
		c.t.Errorf("the channel offers %s, want %s", got, want)
	}
}

// summary returns the version and share of each offer at a time.
func summary(list repo.Offers, at time.Time) string {
	var parts []string
	for _, o := range list {
		p := fmt.Sprintf("%s %d%%", o.Version, o.Percent(at))
		if o.Halted != nil {
			p += " halted"
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, ", ")
}

func percent(n int) *int { return &n }

// TestSeveralVersions: earlier versions stay offered for as long as machines may have to
// return to them.
func TestSeveralVersions(t *testing.T) {
	c := newChannel(t)
	c.publish("1", publish.Options{})
	c.wants("1 100%")
	c.publish("2", publish.Options{})
	c.wants("2 100%, 1 100%")
	c.publish("3", publish.Options{Steps: byTime})
	c.wants("3 1%, 2 100%")
	c.publish("4", publish.Options{Rollout: percent(0)})
	c.wants("4 0%, 3 1%, 2 100%")
	c.publish("4", publish.Options{Rollout: percent(50)}) // extended
	c.wants("4 50%, 3 1%, 2 100%")
	c.now = c.now.Add(48 * time.Hour)
	c.wants("4 50%, 3 100%, 2 100%")
	c.publish("5", publish.Options{Rollout: percent(1)})
	c.wants("5 1%, 4 50%, 3 100%")
	for v := 6; v < 20; v++ {
		c.publish(fmt.Sprint(v), publish.Options{Rollout: percent(1)})
	}
	list := c.offers("stable")
	if len(list) != repo.MaxOffers || list[len(list)-1].Version != "3" || list[0].Version != "19" {
		t.Errorf("of many versions the channel offers %s; want %v list, version %q and version %q", summary(list, c.now), repo.MaxOffers, "3", "19")
	}
}

// TestPointerForEarlierLull: a lull that reads pointers alone gets the newest version, with
// the share of machines at the time of signing.
func TestPointerForEarlierLull(t *testing.T) {
	c := newChannel(t)
	pointer := func() string {
		t.Helper()
		var newest os.FileInfo
		var data []byte
		files, err := filepath.Glob(filepath.Join(c.dir, "channels", rolling, "*.stable.json"))
		must(t, err)
		for _, f := range files {
			fi, err := os.Stat(f)
			must(t, err)
			if newest == nil || fi.ModTime().After(newest.ModTime()) {
				newest = fi
				data, err = os.ReadFile(f)
				must(t, err)
			}
		}
		p, err := repo.ParsePointer(data)
		must(t, err)
		return fmt.Sprintf("%s %d%%", p.Version, p.Rollout.Percent)
	}
	c.publish("1", publish.Options{})
	c.publish("2", publish.Options{Steps: byTime})
	if got := pointer(); got != "2 1%" {
		t.Errorf("the pointer is %s, want %q", got, "2 1%")
	}
	_, err := publish.Halt(t.Context(), c.dir, publish.HaltOptions{ChannelOptions: c.options()})
	must(t, err)
	if got := pointer(); got != "2 0%" {
		t.Errorf("the pointer of what is halted is %s, want %q", got, "2 0%")
	}
}

// TestHaltAndResume: a rollout continues where it was halted, without the package's source.
func TestHaltAndResume(t *testing.T) {
	c := newChannel(t)
	c.publish("1", publish.Options{})
	c.publish("2", publish.Options{Steps: byTime})
	c.now = c.now.Add(7 * time.Hour)
	c.wants("2 10%, 1 100%")
	halt := func(version string) error {
		o := publish.HaltOptions{ChannelOptions: c.options(), Reason: "it crashes often"}
		o.Version = version
		_, err := publish.Halt(t.Context(), c.dir, o)
		return err
	}
	if err := halt("1"); !errkind.Is(err, errkind.Conflict) || !strings.Contains(err.Error(), "version 2 is the newest") {
		t.Errorf("another version is halted: got %v, want an error of kind %v and %q in the error", err, errkind.Conflict, "version 2 is the newest")
	}
	must(t, halt("2"))
	c.wants("2 0% halted, 1 100%")
	at := c.now
	c.now = c.now.Add(100 * time.Hour)
	must(t, halt("2")) // the first one counts
	if h := c.offers("stable")[0].Halted; !h.At.Equal(at) || h.Reason != "it crashes often" {
		t.Errorf("halted by %+v, want at %v for the reason %q", h, at, "it crashes often")
	}
	if _, err := publish.Promote(t.Context(), c.dir, publish.PromoteOptions{ChannelOptions: c.options()}); !errkind.Is(err, errkind.Conflict) || errkind.HintOf(err) == "" {
		t.Errorf("promoting a halted version: got %v with hint %q, want an error of kind %v with a hint", err, errkind.HintOf(err), errkind.Conflict)
	}
	for range 2 {
		_, err := publish.Resume(t.Context(), c.dir, c.options())
		must(t, err)
		c.wants("2 10%, 1 100%")
	}
	c.now = c.now.Add(40 * time.Hour)
	c.wants("2 10%, 1 100%")
	c.now = c.now.Add(time.Hour)
	c.wants("2 100%, 1 100%")

	// A version that already reaches all machines can be halted, too.
	must(t, halt(""))
	c.wants("2 0% halted, 1 100%")
	c.publish("3", publish.Options{})
	c.wants("3 100%, 2 0% halted, 1 100%")
}

func TestPromote(t *testing.T) {
	c := newChannel(t)
	c.publish("1", publish.Options{})
	c.publish("2", publish.Options{Channel: "edge", Urgency: repo.UrgencyHigh, Notes: "New."})
	promote := func(o publish.PromoteOptions) {
		t.Helper()
		o.ChannelOptions = c.options()
		_, err := publish.Promote(t.Context(), c.dir, o)
		must(t, err)
	}
	c.now = c.now.Add(time.Hour)
	promote(publish.PromoteOptions{From: "edge", Steps: byTime})
	c.wants("2 1%, 1 100%")
	if p := c.offers("stable")[0]; p.Urgency != repo.UrgencyHigh || p.Notes != "New." || !p.Published.Equal(c.now) || p.Channel != "stable" {
		t.Errorf("promoted as %+v, want urgency %s, notes %q, published %v, channel stable", p, repo.UrgencyHigh, "New.", c.now)
	}
	for range 2 {
		promote(publish.PromoteOptions{}) // the end of the rollout
		c.wants("2 100%, 1 100%")
	}
	o := c.options()
	o.Channel = "nightly"
	for name, p := range map[string]publish.PromoteOptions{"no such channel": {ChannelOptions: o}, "no such source": {ChannelOptions: c.options(), From: "nightly"}} {
		if _, err := publish.Promote(t.Context(), c.dir, p); !errkind.Is(err, errkind.NotFound) || !strings.Contains(err.Error(), `no channel "nightly"`) {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", name, err, errkind.NotFound, `no channel "nightly"`)
		}
	}
}

// TestNothingChanges: an operation without a change writes no signature.
func TestNothingChanges(t *testing.T) {
	c := newChannel(t)
	c.publish("1", publish.Options{})
	before, err := os.ReadFile(filepath.Join(c.dir, "metadata", "timestamp.json"))
	must(t, err)
	_, err = publish.Resume(t.Context(), c.dir, c.options())
	must(t, err)
	_, err = publish.Promote(t.Context(), c.dir, publish.PromoteOptions{ChannelOptions: c.options()})
	must(t, err)
	if after, err := os.ReadFile(filepath.Join(c.dir, "metadata", "timestamp.json")); err != nil || !slices.Equal(before, after) {
		t.Errorf("the timestamp is signed again: got %v, want no error and %v", err, after)
	}
}

// TestTamperedOffers: tampered offers are not re-signed.
func TestTamperedOffers(t *testing.T) {
	c := newChannel(t)
	c.publish("1", publish.Options{})
	c.publish("2", publish.Options{Steps: byTime})
	files, err := filepath.Glob(filepath.Join(c.dir, "channels", rolling, "*.offers.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	must(t, err)
	must(t, os.WriteFile(files[0], []byte(strings.Replace(string(data), `"percent":1,`, `"percent":9,`, 1)), 0o644))
	if _, err := publish.Halt(t.Context(), c.dir, publish.HaltOptions{ChannelOptions: c.options()}); !errkind.Is(err, errkind.Untrusted) {
		t.Errorf("tampered offers are signed: got %v, want an error of kind %v", err, errkind.Untrusted)
	}
	if _, err := open(t, c.dir).Offers(t.Context(), rolling, "stable"); !errkind.Is(err, errkind.Untrusted) || !strings.Contains(err.Error(), "not the one that was signed") {
		t.Errorf("tampered offers are read: got %v, want an error of kind %v and %q in the error", err, errkind.Untrusted, "not the one that was signed")
	}
}

// TestNeedsLull: a version that needs a later lull keeps the one before offered, and an earlier
// lull, which does not know that need, sees only that.
func TestNeedsLull(t *testing.T) {
	c := newChannel(t)
	c.publish("1", publish.Options{})
	publishNeeding := func(version, needs string) error {
		_, err := publish.Publish(t.Context(), c.dir, source(t, map[string]string{"lull.yaml": "name: " + rolling + "\nversion: \"" + version + "\"\nneeds-lull: \"" + needs + "\"\n"}), publish.Options{Common: publish.Common{Now: c.now}})
		return err
	}
	for _, bad := range []string{"v2", ">= 2", "2.0.0.0"} {
		if err := publishNeeding("2", bad); !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), "needs-lull") {
			t.Errorf("%s: %v; want an error of kind %v and %q in the error", bad, err, errkind.Invalid, "needs-lull")
		}
	}
	must(t, publishNeeding("2", "0.9"))
	must(t, publishNeeding("3", "1.2"))
	c.wants("3 100%, 2 100%, 1 100%")
	if list := c.offers("stable"); list[0].NeedsLull != "1.2" || list[1].NeedsLull != "0.9" || list[2].NeedsLull != "" {
		t.Errorf("got %+v, want needs lull %q, needs lull %q and no needs lull", list, "1.2", "0.9")
	}
	files, err := filepath.Glob(filepath.Join(c.dir, "channels", rolling, "*.offers.json"))
	must(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		var earlier struct {
			Offers []struct{ Version string } `json:"offers"`
		}
		must(t, json.Unmarshal(data, &earlier))
		if len(earlier.Offers) != 1 || earlier.Offers[0].Version != "1" {
			t.Errorf("an earlier lull sees %+v; want 1 offers and version %q", earlier, "1")
		}
	}
	c.publish("4", publish.Options{})
	c.wants("4 100%, 3 100%, 2 100%, 1 100%")
	c.publish("5", publish.Options{})
	c.wants("5 100%, 4 100%")

	only := source(t, map[string]string{"lull.yaml": "name: only\nversion: 1\nneeds-lull: 9\n"})
	_, err = publish.Publish(t.Context(), c.dir, only, publish.Options{Common: publish.Common{Now: c.now}})
	must(t, err)
	list, err := open(t, c.dir).Offers(t.Context(), "only", "stable")
	if err != nil || len(list) != 1 || list[0].NeedsLull != "9" {
		t.Errorf("the only version: %+v, %v; want no error, 1 of them and needs lull %q", list, err, "9")
	}
}

// TestSummaries: the listings have the summary of a package's newest version, which a halt and
// a promotion keep, and which needs no file of the channel. A long one is cut, and one that no
// terminal can show is left out.
func TestSummaries(t *testing.T) {
	c := newChannel(t)
	publishAs := func(version, summary string) {
		t.Helper()
		yaml := "name: " + rolling + "\nversion: \"" + version + "\"\nsummary: " + summary + "\n"
		_, err := publish.Publish(t.Context(), c.dir, source(t, map[string]string{"lull.yaml": yaml}), publish.Options{Common: publish.Common{Now: c.now}})
		must(t, err)
	}
	want := func(lines ...string) {
		t.Helper()
		list, err := open(t, c.dir).Listings(t.Context())
		must(t, err)
		var got []string
		for _, l := range list {
			got = append(got, l.Channel+": "+l.Summary)
		}
		if !slices.Equal(got, lines) {
			t.Errorf("listed are %q, want %q", got, lines)
		}
	}
	publishAs("1", "Edits text")
	want("stable: Edits text")
	publishAs("2", "Edits texts")
	want("stable: Edits texts")
	o := c.options()
	_, err := publish.Promote(t.Context(), c.dir, publish.PromoteOptions{ChannelOptions: publish.ChannelOptions{Common: o.Common, Name: rolling, Channel: "edge"}, From: "stable"})
	must(t, err)
	want("edge: Edits texts", "stable: Edits texts")
	_, err = publish.Halt(t.Context(), c.dir, publish.HaltOptions{ChannelOptions: o})
	must(t, err)
	want("edge: Edits texts", "stable: Edits texts")
	publishAs("3", strings.Repeat("ä", repo.MaxSummary))
	want("edge: Edits texts", "stable: "+strings.Repeat("ä", (repo.MaxSummary-3)/2)+"…")
	c.publish("4", publish.Options{})
	want("edge: Edits texts", "stable: ")

	for _, custom := range []string{`{"lull-summary":"a\u001bb"}`, `{"lull-summary":"a\nb"}`, `{"lull-summary":1}`, `[]`, `{"lull-summary":"` + strings.Repeat("a", repo.MaxSummary+1) + `"}`} {
		raw := json.RawMessage(custom)
		if got := repo.SummaryOf(&raw); got != "" {
			t.Errorf("SummaryOf(%.40s): got %q, want none", custom, got)
		}
	}
}
