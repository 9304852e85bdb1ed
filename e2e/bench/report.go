package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// report is docs/bench.json.
type report struct {
	Date    string            `json:"date"`
	Machine map[string]string `json:"machine"`
	Peers   map[string]string `json:"peers"` // versions
	Rows    []result          `json:"rows"`
}

// result is a row that was measured. Figures are medians.
type result struct {
	ID     string   `json:"id"`
	What   string   `json:"what"`
	Unit   string   `json:"unit"`
	Ours   float64  `json:"ours"`
	Peer   string   `json:"peer,omitempty"`
	Theirs *float64 `json:"theirs"` // null without a peer
	Ratio  *float64 `json:"ratio"`
	Goal   float64  `json:"goal"`    // at most
	GoalOf string   `json:"goal-of"` // "ratio" or "ours"
	Holds  bool     `json:"holds"`

	Samples         int       `json:"samples"`
	OursQuartiles   []float64 `json:"ours-quartiles"`
	TheirsQuartiles []float64 `json:"theirs-quartiles,omitempty"`
	Notes           []string  `json:"notes,omitempty"`
}

func loadReport(path string) (*report, error) {
	var rep report
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &rep, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &rep)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return &rep, nil
}

// put takes the samples of a row into the report, in place of older ones.
func (rep *report) put(r row, s samples) {
	n := result{ID: r.id, What: r.what, Unit: r.unit, Peer: r.peer, Goal: r.goal, GoalOf: r.of(),
		Ours: round(median(s.Ours)), Samples: len(s.Ours), OursQuartiles: rounded(quartiles(s.Ours)), Notes: s.Notes}
	bounded := n.Ours
	if len(s.Theirs) > 0 {
		theirs, ratio := round(median(s.Theirs)), round(median(s.Ours)/median(s.Theirs))
		n.Theirs, n.Ratio, n.TheirsQuartiles = &theirs, &ratio, rounded(quartiles(s.Theirs))
		bounded = ratio
	}
	n.Holds = bounded <= r.goal
	rep.Rows = slices.DeleteFunc(rep.Rows, func(o result) bool { return o.ID == r.id })
	rep.Rows = append(rep.Rows, n)
	slices.SortStableFunc(rep.Rows, func(a, b result) int { return place(a.ID) - place(b.ID) })
}

// place is the index of a row in rows.go; rows that are gone from there come last.
func place(id string) int {
	n := 0
	for _, s := range scenes {
		for _, r := range s.rows {
			if r.id == id {
				return n
			}
			n++
		}
	}
	return n
}

// round keeps three significant digits, which is more than a machine repeats.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

func rounded(list []float64) []float64 {
	for i := range list {
		list[i] = round(list[i])
	}
	return list
}

// describe notes where and against what was measured.
func (rep *report) describe() {
	var u unix.Utsname
	unix.Uname(&u)
	rep.Date = time.Now().UTC().Format(time.DateOnly)
	rep.Machine = map[string]string{
		"cpu":         fmt.Sprintf("%d × %s", runtime.NumCPU(), valueIn("/proc/cpuinfo", "model name")),
		"memory":      valueIn("/proc/meminfo", "MemTotal"),
		"kernel":      unix.ByteSliceToString(u.Release[:]),
		"system":      strings.Trim(valueIn("/etc/os-release", "PRETTY_NAME"), `"`),
		"file system": fileSystem(os.TempDir()),
		"go":          runtime.Version(),
	}
	rep.Peers = map[string]string{
		"systemd":   firstLine("systemd-run", "--version"),
		"coreutils": firstLine("cp", "--version"),
		"cc":        firstLine("cc", "--version"),
		"ostree":    firstLine("sh", "-c", `ostree --version | sed -n "s/.*Version: '\(.*\)'/ostree \1/p"`),
		"nix":       firstLine("nix-store", "--version"),
		"casync":    firstLine("casync", "--version"),
	}
}

// valueIn finds a key in a file of lines "KEY: VALUE" or "KEY=VALUE".
func valueIn(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		k, v, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			k, v, _ = strings.Cut(lines.Text(), "=")
		}
		if strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func fileSystem(path string) string {
	out, err := exec.Command("findmnt", "--noheadings", "--output=FSTYPE", "--target="+path).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func firstLine(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// publish writes, draws and prints.
func (rep *report) publish(out string) error {
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	svg, err := rep.chart()
	if err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(filepath.Join(out, "bench.json"), append(b, '\n'), 0o644),
		os.WriteFile(filepath.Join(out, "bench.svg"), svg, 0o644), rep.writeArithmetic(filepath.Join(out, "repository.md")))
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	fmt.Print(rep.table())
	return nil
}

// table is the report in 80 columns.
func (rep *report) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "row\tours\ttheirs\tunit\tratio\tgoal\tholds\t\n")
	for _, r := range rep.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.ID, figure(&r.Ours), figure(r.Theirs), r.Unit, figure(r.Ratio), r.goalText(), yesNo(r.Holds))
	}
	w.Flush()
	text := "\n" + b.String()
	for _, r := range rep.Rows {
		text += fmt.Sprintf("\n%s: %s\n", r.ID, r.What)
		if r.Samples > 1 {
			text += fmt.Sprintf("  ours: %s, middle half of %d samples\n", spread(r.OursQuartiles, r.Unit), r.Samples)
		}
		if r.Theirs != nil {
			text += fmt.Sprintf("  %s: %s\n", r.Peer, spread(r.TheirsQuartiles, r.Unit))
		}
		for _, note := range r.Notes {
			text += wrapped(note)
		}
	}
	return text
}

// wrapped breaks a note into indented lines of at most 80 columns.
func wrapped(note string) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(note) {
		n := utf8.RuneCountInString(word) + 1
		switch {
		case column == 0:
			b.WriteString(" ")
			column = 1
		case column+n > 80:
			b.WriteString("\n   ")
			column = 3
		}
		b.WriteString(" " + word)
		column += n
	}
	return b.String() + "\n"
}

func spread(q []float64, unit string) string {
	return fmt.Sprintf("%s to %s %s", figure(&q[0]), figure(&q[1]), unit)
}

func (r *result) goalText() string {
	if r.GoalOf == ofRatio {
		return "≤ " + figure(&r.Goal) + "×"
	}
	return "≤ " + figure(&r.Goal)
}

func yesNo(ok bool) string {
	if ok {
		return "yes"
	}
	return "NO"
}

// figure prints a number with the significant digits only; a missing one is "-".
func figure(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.4g", *v)
}
