package fulldisk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNothingFree collects on a disk without a free byte: the reserve
// is released for it, and restored afterwards.
func TestNothingFree(t *testing.T) {
	for _, reserve := range []int64{0, 2 * mib} {
		s := set(t, 64*mib, reserve)
		s.publish("org.lull.one", "1", 20*mib)
		s.publish("org.lull.two", "1", 10*mib)
		s.trust()
		s.MustLull("run", "--ephemeral", "org.lull.one")
		s.fill()
		if free := s.free(); free != 0 {
			t.Fatalf("%d bytes are free, want 0", free)
		}
		r := s.MustLull("gc")
		if free := s.free(); free < 20*mib-mib/2 {
			t.Errorf("reserve %d: after the collection %d bytes are free, want at least %d: %v", reserve, free, 20*mib-mib/2, r)
		}
		if fi, err := os.Stat(filepath.Join(s.Store, "reserve")); reserve > 0 && (err != nil || fi.Size() != reserve) {
			t.Errorf("the reserve is not there again: %v %v", fi, err)
		}
		s.MustLull("run", "--ephemeral", "org.lull.two")
		s.MustLull("verify")
		s.StopAgent()
	}
}

// TestAgentStartsOnFullDisk: an agent that is started where nothing is free
// serves, and collects.
func TestAgentStartsOnFullDisk(t *testing.T) {
	s := set(t, 64*mib, 4*mib)
	s.publish("org.lull.one", "1", 20*mib)
	s.publish("org.lull.two", "1", 8*mib)
	s.trust()
	s.MustLull("install", "org.lull.one")
	s.MustLull("remove", "org.lull.one")
	s.StopAgent()
	if err := os.Remove(filepath.Join(s.Store, "reserve")); err != nil {
		t.Fatal(err)
	}
	s.fill()
	s.StartAgent()
	s.MustLull("gc")
	if free := s.free(); free < 15*mib {
		t.Errorf("without a reserve: after the collection %d bytes are free, want at least %d", free, 15*mib)
	}
	s.MustLull("run", "--ephemeral", "org.lull.two")
}

// TestRepairOnFullDisk repairs an installed package while unneeded packages
// take all the space.
func TestRepairOnFullDisk(t *testing.T) {
	s := set(t, 64*mib, 0)
	s.publish("org.lull.one", "1", 20*mib)
	s.publish("org.lull.two", "1", 30*mib)
	s.trust()
	s.MustLull("install", "org.lull.one")
	s.MustLull("run", "--ephemeral", "org.lull.two")
	weight, err := filepath.EvalSymlinks(filepath.Join(s.Store, "current", "org.lull.one", "weight"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(weight, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("spoilt"), mib)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.fill()
	if r := s.Lull("verify"); r.Code != 1 || !strings.Contains(r.Text(), "content") {
		t.Errorf("it is not found: %v", r)
	}
	if r := s.MustLull("verify", "--repair"); !strings.Contains(r.Text(), "repaired") {
		t.Errorf("it is not repaired: %v", r)
	}
	s.MustLull("verify")
}
