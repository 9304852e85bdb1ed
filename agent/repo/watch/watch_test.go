package watch

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/e2e/require"
)

func TestRules(t *testing.T) {
	r, err := ParseRule("rule.yaml", []byte("above: 2.5%\nat-least: 20\n"))
	if err != nil || r.share != 0.025 || r.AtLeast != 20 || r.Machines != defaultMachines || r.Failures != defaultFailures {
		t.Errorf("%+v, %v", r, err)
	}
	for text, want := range map[string]string{
		"":                         "above",
		"above: 5\n":               "above",
		"above: 100%\n":            "above",
		"above: -1%\n":             "above",
		"above: NaN%\n":            "above",
		"above: 5%\nat-least: 0\n": "at-least",
		"above: 5%\nunknown: 1\n":  "unknown",
	} {
		if _, err := ParseRule("rule.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error and %q in the error", text, err, want)
		}
	}
}

// TestAnswers: a server that answers with anything but one number is an error, never a halt.
func TestAnswers(t *testing.T) {
	rule, err := ParseRule("rule.yaml", []byte("above: 10%\nat-least: 5\n"))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(number string) string {
		return `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"` + number + `"]}]}}`
	}
	for _, c := range []struct {
		machines, failures string
		want               string // the verdict, or part of the error
	}{
		{answer("10"), answer("1"), "1 of 10 false"}, {answer("10"), answer("2"), "2 of 10 true"}, {answer("4"), answer("4"), "4 of 4 false"},
		{answer("0"), answer("0"), "0 of 0 false"}, {answer("NaN"), answer("0"), "not one number"}, {answer("-1"), answer("0"), "not one number"}, {answer("+Inf"), answer("0"), "not one number"},
		{`{"status":"success","data":{"resultType":"vector","result":[]}}`, answer("0"), "not one number"},
		{`{"status":"error","errorType":"bad_data","error":"parse error"}`, answer("0"), "parse error"},
		{"<html>", answer("0"), "cannot ask"}, {answer("1") + strings.Repeat(" ", maxAnswer), answer("0"), "0 of 1 false"}, {strings.Repeat("[", maxAnswer+1), answer("0"), "cannot ask"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			query := r.FormValue("query")
			if !strings.Contains(query, `exported_instance="org.example.notes",version="2\"\\"`) {
				t.Errorf("the query is %s; want %q in the query", query, `exported_instance="org.example.notes",version="2\"\\"`)
			}
			if strings.HasPrefix(query, "count(lull_refresh_undone") {
				_, _ = w.Write([]byte(c.failures))
			} else {
				_, _ = w.Write([]byte(c.machines))
			}
		}))
		w, err := New(rule, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		v, err := w.Check(t.Context(), "org.example.notes", `2"\`)
		got := fmt.Sprintf("%d of %d %v", v.Failures, v.Machines, v.Halt)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) || err != nil && (v.Halt || !errkind.Is(err, errkind.Unavailable)) {
			t.Errorf("%.80s, %.80s: %s, want %s", c.machines, c.failures, got, c.want)
		}
		s.Close()
	}
	w, err := New(rule, "http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Check(ctx, "a", "1"); err == nil {
		t.Error("no error without a server")
	}
	for _, bad := range []string{"", "localhost:9090", "ftp://x", "http://[::1"} {
		if _, err := New(rule, bad); !errkind.Is(err, errkind.Usage) {
			t.Errorf("%q: %v; want an error of kind %v", bad, err, errkind.Usage)
		}
	}
}

// TestAlertRules: promtool accepts the alert rules of the documentation, and their tests pass.
func TestAlertRules(t *testing.T) {
	require.Program(t, "promtool")
	for _, argv := range [][]string{{"promtool", "check", "rules", "lull.rules.yml"}, {"promtool", "test", "rules", "lull.rules.test.yml"}} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = "../../../docs/fleet"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", argv, err, out)
		}
	}
}
