package accounts

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOf(t *testing.T) {
	dir := t.TempDir()
	subuid := filepath.Join(dir, "subuid")
	// The second line is damaged; daemon is a user of every Linux system, with number 1.
	ranges := "daemon:100000:65536\nroot:x:y\n\n4001:165536:65536\nno-such-user:300000:10\n"
	if err := os.WriteFile(subuid, []byte(ranges), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "70000"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	known := map[uint32]bool{1: true, 4001: true, 100007: true}
	accounts := tables{users: dir, subuid: subuid, lookUp: func(uid uint32) (string, bool) { return "", known[uid] }}
	for uid, want := range map[uint32]uint32{
		0: 0, 1: 1, 4001: 4001, uint32(os.Getuid()): uint32(os.Getuid()),
		70000:      70000, // logged in, and in no passwd
		100007:     100007,
		100000:     1,
		165535:     1,
		165536:     4001,
		231071:     4001,
		231072:     Nobody,
		300000:     Nobody,
		4294967294: Nobody,
	} {
		if got := accounts.of(uid); got != want {
			t.Errorf("uid %d: got %d, want %d", uid, got, want)
		}
	}
	accounts.subuid = filepath.Join(dir, "missing")
	if got := accounts.of(100000); got != Nobody {
		t.Errorf("without subuid: got %d, want %d", got, Nobody)
	}
}

func TestName(t *testing.T) {
	for uid, want := range map[uint32]string{0: "root", 4294967290: "4294967290"} {
		if got := Name(uid); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
