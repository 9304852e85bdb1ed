package desktops_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// tally counts launches by opener.
type tally struct {
	rows   []*tallyRow
	where  map[string]int // by the unit that the application ran in
	before int            // launches that began before the first refresh was done
}

type tallyRow struct {
	opener                  string
	launches                int
	busy                    int // of them, with all processors busy
	escaped, refused, twice int
}

func newTally(openers []opener) *tally {
	c := &tally{where: map[string]int{}}
	for _, o := range openers {
		c.rows = append(c.rows, &tallyRow{opener: o.name})
	}
	return c
}

func (c *tally) row(opener string) *tallyRow {
	for _, r := range c.rows {
		if r.opener == opener {
			return r
		}
	}
	panic("no opener " + opener)
}

func (c *tally) escaped() (n int) {
	for _, r := range c.rows {
		n += r.escaped
	}
	return n
}

// tallyFile has the table inside the container while the launches go on, for those who do
// not want to wait for hours.
const tallyFile = "/var/tmp/launches"

// keep writes the table to tallyFile.
func (c *tally) keep(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(tallyFile, []byte(c.table()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// table is that of docs/desktops.md.
func (c *tally) table() string {
	var text strings.Builder
	line := func(r *tallyRow) {
		fmt.Fprintf(&text, "| %s | %d | %d | %d | %d | %d |\n", r.opener, r.launches, r.busy, r.escaped, r.refused, r.twice)
	}
	all := tallyRow{opener: "all"}
	for _, r := range c.rows {
		line(r)
		all.launches += r.launches
		all.busy += r.busy
		all.escaped += r.escaped
		all.refused += r.refused
		all.twice += r.twice
	}
	line(&all)
	return text.String()
}

// log prints the table.
func (c *tally) log(t *testing.T, began time.Time) {
	t.Helper()
	t.Logf("launches in %v; %d began before the first refresh; they ran in %v; opener, launches, of them busy, escaped, refused, twice:\n%s",
		time.Since(began).Round(time.Second), c.before, c.where, c.table())
}
