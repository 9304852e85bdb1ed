package sessionclass

import "testing"

// All classes of systemd 258.
func TestIsPerson(t *testing.T) {
	for class, want := range map[string]bool{
		"user": true, "user-early": true, "user-light": true, "user-early-light": true,
		"user-incomplete": false, "greeter": false, "lock-screen": false, "background": false, "background-light": false,
		"manager": false, "manager-early": false, "none": false, "": false,
	} {
		if got := IsPerson(class); got != want {
			t.Errorf("%q: %v, want %v", class, got, want)
		}
	}
}
