package delta

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestNumbers: how numbers have changed is read as it was written, whatever they are.
func TestNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var v votes
		for i := range v {
			v[i] = rapid.MapOf(rapid.Custom(func(t *rapid.T) [2]int32 {
				return [2]int32{rapid.Int32().Draw(t, "old"), rapid.Int32().Draw(t, "new")}
			}), rapid.IntRange(1, 9)).Draw(t, "votes")
		}
		want := v.numbers([2]int64{7, 1 << 30})
		got, err := readNumbers(bytes.NewReader(want.append(nil)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i].own != want[i].own || !slices.Equal(got[i].runs, want[i].runs) {
				t.Errorf("numbers %d: got %+v, want %+v", i, got[i], want[i])
			}
		}
	})
}
