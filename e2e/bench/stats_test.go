package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		list []float64
		q    float64
		want float64
	}{
		{[]float64{3}, 0.5, 3},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 1, 4, 2, 3}, 0.5, 3},
		{[]float64{5, 1, 4, 2, 3}, 0.25, 2},
		{[]float64{5, 1, 4, 2, 3}, 0.75, 4},
		{[]float64{1, 2}, 1, 2},
	} {
		if got := quantile(c.list, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %v, want %v", c.q, c.list, got, c.want)
		}
	}
}

func TestInTurns(t *testing.T) {
	var order []string
	n := 0.0
	take := func(name string) func() float64 {
		return func() float64 { order = append(order, name); n++; return n }
	}
	got := inTurns(1, 2, take("a"), take("b"))
	if want := []string{"a", "b", "a", "b", "a", "b"}; !slices.Equal(order, want) {
		t.Errorf("taken in the order %v, want %v", order, want)
	}
	if !slices.Equal(got[0], []float64{3, 5}) || !slices.Equal(minus(got[1], got[0]), []float64{1, 1}) {
		t.Errorf("the samples are %v, want [[3 5] [4 6]]", got)
	}
}

func TestThousands(t *testing.T) {
	for _, c := range []struct {
		from float64
		want string
	}{{0.0864, "0.086"}, {9.96, "10"}, {12.3, "12"}, {99.6, "100"}, {130_400, "130,000"}, {129_600_000, "130,000,000"}} {
		if got := thousands(c.from); got != c.want {
			t.Errorf("%v: %s, want %s", c.from, got, c.want)
		}
	}
}

// TestArithmeticIsThatOfTheRows: the arithmetic in docs/repository.md is that of docs/bench.json.
func TestArithmeticIsThatOfTheRows(t *testing.T) {
	const docs = "../../docs/"
	rep, err := loadReport(docs + "bench.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(docs + "repository.md")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "repository.md")
	if err := os.WriteFile(copied, page, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rep.writeArithmetic(copied); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(page); got != string(want) || !strings.Contains(got, "| 10,000,000 |") {
		t.Errorf("docs/repository.md is not what make bench writes for docs/bench.json:\n%s\nwant\n%s", rep.arithmetic(), want)
	}
}
