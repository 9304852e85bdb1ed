package hostile_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The text around the figures in docs/hardening.md.
const (
	figuresBegin = "<!-- What follows is written by make hardening. -->\n"
	figuresEnd   = "<!-- What precedes is written by make hardening. -->\n"
)

// goal is how many times of what the same load costs elsewhere an attack may cost others.
const goal = 2

// writeFigures replaces the table in a document.
func writeFigures(t *testing.T, path string, n int, took time.Duration, quiet row, rows []row) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), figuresBegin)
	_, after, ok2 := strings.Cut(rest, figuresEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the figures", path)
	}
	text := before + figuresBegin + "\n" + figures(n, took, quiet, rows) + "\n" + figuresEnd + after
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func figures(n int, took time.Duration, quiet row, rows []row) string {
	var b strings.Builder
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	before, _, _ := strings.Cut(string(load), " ")
	fmt.Fprintf(&b, "%s, Linux %s, %d CPUs with a load of %s at the end, %d launches and %[5]d calls of `lull status` for each figure, %d s in all.\n",
		time.Now().UTC().Format("2006-01-02"), strings.TrimSpace(string(kernel)), runtime.NumCPU(), before, n, int(took.Seconds()))
	fmt.Fprintf(&b, "Nothing else done: launch %s, status %s (99th percentile); refresh %s, collection %s, restart of the agent %s.\n\n",
		ms(worst(quiet.aimed.Launch)), ms(worst(quiet.aimed.Status)), ms(quiet.refresh), ms(quiet.collect), ms(quiet.restart))
	b.WriteString("| attack | what was tried | what happened | launch: elsewhere → aimed | status: elsewhere → aimed | refresh, collection, restart | agent |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- |\n")
	missed := 0
	for _, r := range rows {
		base := quiet.aimed
		name := "quiet"
		if r.elsewhere != nil {
			base, name = *r.elsewhere, ""
		}
		cell := func(base, aimed []time.Duration) string {
			from, to := worst(base), worst(aimed)
			ratio := float64(to) / float64(from)
			s := fmt.Sprintf("%s → %s, %.1f×", strings.TrimSpace(name+" "+ms(from)), ms(to), ratio)
			if ratio > goal {
				missed++
				s += " **over**"
			}
			return s
		}
		restart := ""
		if r.restart != 0 {
			restart = ", " + ms(r.restart)
		}
		fmt.Fprintf(&b, "| %s | %s | %s (%s) | %s | %s | %s, %s%s | %d MiB |\n", r.name, r.tried, r.outcome, r.said,
			cell(base.Launch, r.aimed.Launch), cell(base.Status, r.aimed.Status), ms(r.refresh), ms(r.collect), restart, (r.memory+1023)>>10)
	}
	fmt.Fprintf(&b, "\n%d of %d figures miss the goal of %d×.\n", missed, 2*len(rows), goal)
	return b.String()
}

func ms(d time.Duration) string {
	if d >= 10*time.Second {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
