package offers

import (
	"os"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A machine without a machine-id keeps its identity over a restart, and differs from all
// others of its kind.
func TestBucketWithoutMachineID(t *testing.T) {
	warn := func(err error) { t.Error(err) }
	ids := map[string]bool{}
	for range 8 {
		dir := t.TempDir()
		for _, system := range []string{"", "uninitialized\n", "\n"} {
			if system != "" {
				write(t, dir+"/machine-id", system)
			}
			id := findMachineID(dir+"/machine-id", dir+"/kept", warn)
			ids[id] = true
			if len(id) != 32 {
				t.Errorf("got %q, want 32 of them", id)
			}
		}
		write(t, dir+"/machine-id", "0123456789abcdef0123456789abcdef\n")
		if id := findMachineID(dir+"/machine-id", dir+"/kept", warn); id != "0123456789abcdef0123456789abcdef" {
			t.Errorf("%q, want 0123456789abcdef0123456789abcdef", id)
		}
	}
	if len(ids) != 8 {
		t.Errorf("8 machines have %d identities, want 8", len(ids))
	}
	warned := 0
	if findMachineID("/nowhere/a", "/nowhere/b", func(error) { warned++ }); warned != 1 {
		t.Errorf("warned %d times, want 1", warned)
	}
}
