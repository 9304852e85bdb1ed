// Package watch halts the rollout of a version by the metrics of the machines that have it.
//
// Words: a Rule says by two queries of Prometheus how many machines have tried a version, and
// on how many of them it has failed. A Verdict is the result of these queries at a moment.
//
// A Watcher may be used by one goroutine at a time. Check blocks on the network.
package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/policy/strictyaml"
)

// Rule says when a version is halted. In the queries $name and $version are the name of the
// package and its version, as strings with quotes.
type Rule struct {
	Above    string `yaml:"above"`    // the greatest share of the machines on which the version may fail: "5%"
	AtLeast  int    `yaml:"at-least"` // machines that must have tried the version before the rule decides
	Machines string `yaml:"machines"` // query: how many machines have tried the version
	Failures string `yaml:"failures"` // query: on how many of them it has failed

	share float64
}

// The default queries. The label exported_instance is the instance of lull: Prometheus renames
// labels that it uses itself.
const (
	defaultMachines = `count({__name__=~"lull_installed_info|lull_refresh_undone_timestamp_seconds",exported_instance=$name,version=$version}) or vector(0)`
	defaultFailures = `count(lull_refresh_undone_timestamp_seconds{exported_instance=$name,version=$version} or lull_services_failed{exported_instance=$name,version=$version} > 0) or vector(0)`
)

// ParseRule reads a rule in YAML. The name of its file is for messages.
func ParseRule(name string, data []byte) (*Rule, error) {
	doc, err := strictyaml.Parse(name, data)
	if err != nil {
		return nil, err
	}
	r := &Rule{AtLeast: 1, Machines: defaultMachines, Failures: defaultFailures}
	if err := doc.Decode(r); err != nil {
		return nil, err
	}
	number, percent := strings.CutSuffix(r.Above, "%")
	r.share, err = strconv.ParseFloat(number, 64)
	if err != nil || !percent || !(r.share >= 0 && r.share < 100) {
		return nil, doc.Errorf("above", "cannot use above: %q: want a percentage such as 5%%", r.Above)
	}
	r.share /= 100
	if r.AtLeast < 1 {
		return nil, doc.Errorf("at-least", "cannot use at-least: %d: want a number of machines", r.AtLeast)
	}
	return r, nil
}

// Verdict is the state of a version by a rule.
type Verdict struct {
	Machines, Failures int
	Halt               bool
}

// Share is the share of the machines on which the version has failed.
func (v Verdict) Share() float64 {
	if v.Machines == 0 {
		return 0
	}
	return float64(v.Failures) / float64(v.Machines)
}

// Reason is the reason to halt, as it is signed into a channel: in English, like notes.
func (v Verdict) Reason() string {
	return fmt.Sprintf("failed on %d of %d machines (%.1f%%)", v.Failures, v.Machines, 100*v.Share())
}

// Watcher asks a Prometheus server.
type Watcher struct {
	rule *Rule
	url  string // of instant queries
}

// New returns a Watcher for the server at an address. Error Usage: it is no address.
func New(rule *Rule, address string) (*Watcher, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errkind.New(errkind.Usage, "cannot use %.200q as the address of Prometheus", address)
	}
	return &Watcher{rule, u.JoinPath("api/v1/query").String()}, nil
}

const (
	queryTime = 30 * time.Second
	maxAnswer = 1 << 20 // bytes
)

// Check applies the rule to a version. Error Unavailable: the server does not answer the
// queries with one number each.
func (w *Watcher) Check(ctx context.Context, name, version string) (v Verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	fill := strings.NewReplacer("$name", strconv.Quote(name), "$version", strconv.Quote(version))
	if v.Machines, err = w.count(ctx, fill.Replace(w.rule.Machines)); err == nil {
		v.Failures, err = w.count(ctx, fill.Replace(w.rule.Failures))
	}
	if err != nil {
		return v, errkind.New(errkind.Unavailable, "cannot ask Prometheus about %s %s: %w", name, version, err)
	}
	v.Halt = v.Machines >= w.rule.AtLeast && v.Share() > w.rule.share
	return v, nil
}

// answer is the form of an answer to an instant query
// (https://prometheus.io/docs/prometheus/latest/querying/api/).
type answer struct {
	Status string `json:"status"`
	Error  string `json:"error"`
	Data   struct {
		Type   string          `json:"resultType"`
		Result json.RawMessage `json:"result"`
	} `json:"data"`
}

// sample is a time and a number as text.
type sample [2]any

// count returns the number that a query yields.
func (w *Watcher) count(ctx context.Context, query string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, strings.NewReader(url.Values{"query": {query}}.Encode()))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&a); err != nil {
		return 0, fmt.Errorf("its answer is no JSON (%s): %w", res.Status, err)
	}
	if a.Status != "success" {
		return 0, fmt.Errorf("it refuses the query: %s", a.Error)
	}
	var one sample
	var vector []struct {
		Value sample `json:"value"`
	}
	switch a.Data.Type {
	case "scalar":
		err = json.Unmarshal(a.Data.Result, &one)
	case "vector":
		if err = json.Unmarshal(a.Data.Result, &vector); len(vector) == 1 {
			one = vector[0].Value
		}
	}
	text, _ := one[1].(string)
	number, perr := strconv.ParseFloat(text, 64)
	if err != nil || perr != nil || !(number >= 0 && number <= math.MaxInt32) {
		return 0, fmt.Errorf("the answer to %.200q is not one number", query)
	}
	return int(number), nil
}
