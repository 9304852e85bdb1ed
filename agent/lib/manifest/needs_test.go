package manifest

import "testing"

func TestSatisfies(t *testing.T) {
	for _, c := range []struct {
		own, needs string
		want       bool
	}{
		{"0.1.0", "", true}, {"0.1.0", "0.1", true}, {"0.1.0", "0.1.0", true}, {"0.1.0", "0.1.1", false}, {"0.1.0", "0.2", false},
		{"0.10", "0.9", true}, {"1", "0.99.99", true}, {"1", "1.0.0", true}, {"1.2.3-4+git", "1.2.3", true}, {"1.2~rc1", "1.3", false},
		{"", "9", true}, {"development build", "9", true}, {"(devel)", "9", true},
	} {
		if got := Satisfies(c.own, c.needs); got != c.want {
			t.Errorf("%q with %q: %v, want %v", c.own, c.needs, got, c.want)
		}
	}
	for needs, ok := range map[string]bool{"": true, "1": true, "1.2": true, "1.2.3": true, "1.2.3.4": false, "v1": false, ">=1": false, "1.": false, "123456": false, "1\n": false} {
		if err := ValidNeeds(needs); (err == nil) != ok {
			t.Errorf("ValidNeeds(%q): got %v, want it valid: %v", needs, err, ok)
		}
	}
}
