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
		t.Fatalf("the first Ensure: got %+v, %v, %v; want an ID of 32 characters and a short one of 4, true and no error", first, made, err)
	}
	again, made, err := Ensure(root, ID{Adopt: map[string]uint32{"app": 9}})
	if err != nil || made || again.ID != first.ID || again.Adopt["app"] != 3 {
		t.Errorf("the second Ensure: got %+v, %v, %v; want ID %s with app adopted as 3, false and no error", again, made, err, first.ID)
	}
	st, err := os.Stat(filepath.Join(root, File))
	if err != nil {
		t.Error(err)
	} else if st.Mode().Perm() != 0o644 {
		t.Errorf("got mode %v, want -rw-r--r--, so that launchers can read it", st.Mode())
	}
	other, _, err := Ensure(t.TempDir(), ID{})
	if err != nil || other.ID == first.ID {
		t.Errorf("Ensure for another store: got %v, %v; want an ID other than %s and no error", other, err, first.ID)
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
			t.Errorf("Ensure over %q: got %+v, %v, %v; want a valid ID, true and no error", text, id, made, err)
		}
	}
	if _, _, err := Ensure(t.TempDir(), ID{UserData: "relative"}); err == nil {
		t.Error("a relative path is taken")
	}
}
