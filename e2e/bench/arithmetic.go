package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Prices in dollars: the public list prices of Amazon S3 (us-east-1) and CloudFront (United
// States and Europe) for the first steps, of 2025, without free amounts.
const (
	s3Requests, s3GB   = 0.0004 / 1000, 0.09
	cdnRequests, cdnGB = 0.0100 / 10_000, 0.085
	daysOfMonth        = 30
)

// The text around the arithmetic in docs/repository.md.
const (
	arithmeticBegin = "<!-- What follows is written by make bench. -->\n"
	arithmeticEnd   = "<!-- What precedes is written by make bench. -->\n"
)

// arithmetic is what fleets of some sizes cost, by the rows that were measured; "" without
// them.
func (rep *report) arithmetic() string {
	value := map[string]float64{}
	for _, r := range rep.Rows {
		value[r.ID] = r.Ours
	}
	requests, bytes, herd := value["fleet"], value["fleet-bytes"]*1000, value["fleet-herd"]/100
	if requests == 0 || bytes == 0 || herd == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "A machine sends %.1f requests and moves %.1f kB a day (rows `fleet` and `fleet-bytes`); where nothing is new, a check is %.0f request of %.0f bytes\n"+
		"with nginx and of %.0f with an S3 object store (`check-idle-requests`, `check-idle-bytes`, `check-idle-bytes-s3`). Once a day and at `lull refresh` it\n"+
		"requests the next root, too: %.0f requests, %.0f bytes (`check-root-requests`, `check-root-bytes`). At worst %.1f %% of the machines check within a\n"+
		"minute (`fleet-herd`).\n\n",
		requests, bytes/1000, value["check-idle-requests"], value["check-idle-bytes"], value["check-idle-bytes-s3"], value["check-root-requests"], value["check-root-bytes"], 100*herd)
	b.WriteString("| machines | requests a day | on average | in the worst minute | metadata a day | S3 a month: requests + transfer | CDN a month: requests + transfer |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, machines := range []float64{10_000, 1_000_000, 10_000_000} {
		daily, gb := machines*requests, machines*bytes/1e9
		fmt.Fprintf(&b, "| %s | %s | %s a second | %s checks a second | %s GB | $%s + $%s | $%s + $%s |\n", thousands(machines), thousands(daily), thousands(daily/86400), thousands(machines*herd/60), thousands(gb),
			thousands(daysOfMonth*daily*s3Requests), thousands(daysOfMonth*gb*s3GB), thousands(daysOfMonth*daily*cdnRequests), thousands(daysOfMonth*gb*cdnGB))
	}
	return b.String()
}

// thousands writes a number with two significant digits, and thousands apart.
func thousands(f float64) string {
	if f < 10 {
		return fmt.Sprintf("%.2g", f)
	}
	unit := 1.0
	for f/unit >= 100 {
		unit *= 10
	}
	s := fmt.Sprintf("%.0f", unit*float64(int(f/unit+0.5)))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeArithmetic replaces the arithmetic in a document.
func (rep *report) writeArithmetic(path string) error {
	text := rep.arithmetic()
	if text == "" {
		return nil
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), arithmeticBegin)
	_, after, end := strings.Cut(rest, arithmeticEnd)
	if !ok || !end {
		return errors.New(path + " has no place for the arithmetic")
	}
	return os.WriteFile(path, []byte(before+arithmeticBegin+"\n"+text+"\n"+arithmeticEnd+after), 0o644)
}
