package environment_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/lull/lull/agent/lib/environment"
	"github.com/lull/lull/agent/lib/manifest"
)

func TestApply(t *testing.T) {
	dirs := map[string]string{manifest.PlacePackage: "/p", manifest.PlaceData: "/d", manifest.PlaceUserData: ""}
	for what, c := range map[string]struct {
		env  []string
		vars map[string]manifest.Variable
		want []string
	}{
		"nothing": {[]string{"A=1"}, nil, []string{"A=1"}},
		"value":   {[]string{"A=1", "B=2"}, map[string]manifest.Variable{"A": {Value: "${package}$$"}}, []string{"A=/p$", "B=2", "LULL_ENVIRONMENT=A", "LULL_HOST_A=1"}},
		"list": {[]string{"L=/x:/y"}, map[string]manifest.Variable{"L": {Prepend: []string{"${package}/a", "/b"}, Append: []string{"${data}"}}},
			[]string{"L=/p/a:/b:/x:/y:/d", "LULL_ENVIRONMENT=L", "LULL_HOST_L=/x:/y"}},
		"list that is empty": {[]string{"L="}, map[string]manifest.Variable{"L": {Append: []string{"/a"}}}, []string{"L=/a", "LULL_ENVIRONMENT=L", "LULL_HOST_L="}},
		"list with a standard value": {nil, map[string]manifest.Variable{"XDG_DATA_DIRS": {Prepend: []string{"${package}/share"}}},
			[]string{"LULL_ENVIRONMENT=XDG_DATA_DIRS", "XDG_DATA_DIRS=/p/share:/usr/local/share:/usr/share"}},
		"directory that is missing": {[]string{"A=1"}, map[string]manifest.Variable{"A": {Value: "${user_data}"}, "B": {Append: []string{"${common}", "${package}"}}, "C": {Append: []string{"${common}"}}},
			[]string{"A=1", "B=/p", "LULL_ENVIRONMENT=B"}},
	} {
		got := environment.Apply(c.env, c.vars, dirs)
		if !slices.Equal(slices.Sorted(slices.Values(got)), c.want) {
			t.Errorf("%s: got %q, want %q", what, got, c.want)
		}
		if back := environment.OfHost(got); !slices.Equal(slices.Sorted(slices.Values(back)), slices.Sorted(slices.Values(c.env))) {
			t.Errorf("%s: %q is the host's, want %q", what, back, c.env)
		}
	}
	// The second package begins with the host's environment.
	list := map[string]manifest.Variable{"L": {Prepend: []string{"${package}/lib"}}}
	first := environment.Apply([]string{"L=/x"}, list, map[string]string{manifest.PlacePackage: "/p1"})
	second := environment.Apply(environment.OfHost(first), list, map[string]string{manifest.PlacePackage: "/p2"})
	if want := []string{"L=/p2/lib:/x", "LULL_ENVIRONMENT=L", "LULL_HOST_L=/x"}; !slices.Equal(slices.Sorted(slices.Values(second)), want) {
		t.Errorf("got %q, want %q", second, want)
	}
}

// FuzzOfHost: no environment makes it fail, and its result has no record.
func FuzzOfHost(f *testing.F) {
	f.Add("LULL_ENVIRONMENT=A:B", "LULL_HOST_A=1", "A=2")
	f.Add("LULL_ENVIRONMENT=", "LULL_HOST_=", "=")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		once := environment.OfHost([]string{a, b, c})
		vars := map[string]manifest.Variable{"Z": {Value: "z"}}
		again := environment.OfHost(environment.Apply(once, vars, map[string]string{}))
		count := maps.Collect(slices.All(again))
		if len(count) > len(once) {
			t.Errorf("OfHost after its own result was applied: got %q, want no more variables than %q", again, once)
		}
	})
}
