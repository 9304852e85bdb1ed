package container_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"
)

// TestResignTimer: the timer of docs/repository.md signs a repository again, in its sandbox and
// with the key of the timestamp alone, for the time that was chosen.
func TestResignTimer(t *testing.T) {
	here(t)
	installed(t)
	const repository = "/srv/lull/repo"
	sh(t, "mkdir -p /srv/lull && lull repo init %[1]s && lull repo resign %[1]s --expires 7d", repository)
	t.Cleanup(func() { try(t, "systemctl disable --now 'lull-resign@srv-lull-repo.timer'; rm -rf /srv/lull") })
	sh(t, "mkdir /srv/lull/safe && mv %[1]s.keys/root.pem %[1]s.keys/targets.pem %[1]s.keys/snapshot.pem /srv/lull/safe", repository)
	type timestamp struct {
		Signed struct {
			Version int
			Expires time.Time
		}
	}
	read := func() (m timestamp) {
		t.Helper()
		data, err := os.ReadFile(repository + "/metadata/timestamp.json")
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := read()
	sh(t, `systemctl enable --now "$(systemd-escape --path --template=lull-resign@.timer %s)"`, repository)
	sh(t, "systemctl is-active lull-resign@srv-lull-repo.timer && systemctl start lull-resign@srv-lull-repo.service")
	after := read()
	if after.Signed.Version <= before.Signed.Version {
		t.Errorf("the timestamp has version %d after %d, want a later one", after.Signed.Version, before.Signed.Version)
	}
	if left := time.Until(after.Signed.Expires); left < 6*24*time.Hour || left > 7*24*time.Hour {
		t.Errorf("it expires in %v, want seven days", left)
	}
	// Without its key it fails, and changes nothing.
	sh(t, "mv %s.keys/timestamp.pem /srv/lull/safe", repository)
	if o := try(t, "systemctl start lull-resign@srv-lull-repo.service"); o.code == 0 {
		t.Error("it succeeds without the key")
	}
	if last := read(); last != after {
		t.Errorf("without the key the timestamp is %+v, want %+v", last, after)
	}
}
