package digest

import (
	"encoding/json"
	"strings"
	"testing"
)

const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of no bytes

func TestOneSpelling(t *testing.T) {
	d, err := Parse(empty)
	if err != nil || d != Of(nil) || d.String() != empty || d.Short() != empty[:16] {
		t.Fatal(d, err)
	}
	for _, s := range []string{"", empty[1:], empty + "0", strings.ToUpper(empty), "g" + empty[1:], "../" + empty[3:], empty[:63] + "\n"} {
		if d, err := Parse(s); err == nil {
			t.Errorf("%q was read as %s; want an error", s, d)
		}
	}
	var v struct{ D Digest }
	if err := json.Unmarshal([]byte(`{"D":"`+empty+`"}`), &v); err != nil || v.D != d {
		t.Error(v, err)
	}
	if err := json.Unmarshal([]byte(`{"D":"x"}`), &v); err == nil || v.D != d {
		t.Error("a broken hash was taken", v)
	}
	if got, n, err := Read(strings.NewReader("lull")); err != nil || n != 4 || got != Of([]byte("lull")) {
		t.Error(got, n, err)
	}
	if !(Digest{}).IsZero() || d.IsZero() || d.Compare(Digest{}) <= 0 {
		t.Error("the zero value is the smallest and names nothing")
	}
}
