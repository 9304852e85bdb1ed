package storeid

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestEnsure(t *testing.T) {
	root := t.TempDir()
	if _, err := Read(root); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an identity of nothing: got %v, want the error %v", err, fs.ErrNotExist)
	}
	first, made, err := Ensure(root, ID{Adopt: map[string]uint32{"app": 3}})
	if err != nil || !made || len(first.ID) != 32 || len(first.Short()) != 4 {
		t.Fatalf("%+v, %v, %v", first, made, err)
	}
	again, made, err := Ensure(root, ID{Adopt: map[string]uint32{"app": 9}})
	if err != nil || made || again.ID != first.ID || again.Adopt["app"] != 3 {
		t.Errorf("made a second time: %+v, %v, %v", again, made, err)
	}
	st, err := os.Stat(filepath.Join(root, File))
	if err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("launchers cannot read it: %v, %v", st, err)
	}
	other, _, err := Ensure(t.TempDir(), ID{})
	if err != nil || other.ID == first.ID {
		t.Errorf("two stores with one identity: %v, %v", other, err)
	}
}

// TestDamaged: a file that cannot be read costs an identity, and stops nothing.
func TestDamaged(t *testing.T) {
	for _, text := range []string{"", "{", `{"id":"ab"}`, `{"id":"zz345678901234567890123456789012"}`, `{"id":"12345678901234567890123456789012","user-data":"here"}`} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, File), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(root); !errors.Is(err, errDamaged) {
			t.Errorf("%q: %v; want the error %v", text, err, errDamaged)
		}
		if id, made, err := Ensure(root, ID{}); err != nil || !made || !id.valid() {
			t.Errorf("%q: %+v, %v, %v", text, id, made, err)
		}
	}
	if _, _, err := Ensure(t.TempDir(), ID{UserData: "relative"}); err == nil {
		t.Error("a relative path is taken")
	}
}
