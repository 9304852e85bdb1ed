package delta

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"slices"
)

// run is a range of numbers that have all changed by shift. It begins at old, and ends where the
// next run begins. Numbers before the first run have not changed.
type run struct{ old, shift int32 }

// maxRuns is the most runs of a kind of numbers.
const maxRuns = 1 << 16

// leastUses is how many fields have to refer to the numbers of a run. Fewer take less space as
// differences.
const leastUses = 3

// moves is how the numbers of a kind have changed.
type moves struct {
	runs []run // of all files
	own  int64 // numbers from here on mean something else in each file

	file   int   // and one, of the points
	points []run // of this file: the numbers whose predictions were wrong
}

// maxPoints is the most points of a file.
const maxPoints = 4 << 10

// numbers predicts the fields of the kinds fieldString and fieldType.
type numbers [2]moves

func numbersOf(k fieldKind) int { return int(k - fieldString) }

// isNumber reports whether a field has a number that is the same in several files.
func (k fieldKind) isNumber() bool { return k == fieldString || k == fieldType }

// predict returns the new number of an old one in file nf.
func (m *moves) predict(nf int, old int64) int64 {
	if m.file == nf+1 && old >= m.own {
		if r, ok := before(m.points, old); ok {
			return old + int64(r.shift)
		}
	}
	r, _ := before(m.runs, old)
	return old + int64(r.shift)
}

// before returns the last run that begins at a number or before it.
func before(runs []run, old int64) (run, bool) {
	i, found := slices.BinarySearchFunc(runs, old, compareOld)
	if found {
		i++
	}
	if i == 0 {
		return run{}, false
	}
	return runs[i-1], true
}

func compareOld(r run, old int64) int { return cmp.Compare(int64(r.old), old) }

// learn notes the true number after a wrong prediction. It reports false for numbers that mean
// the same in all files.
func (m *moves) learn(nf int, old, actual int64) bool {
	if old < m.own || old != int64(int32(old)) {
		return false
	}
	if m.file != nf+1 {
		m.file, m.points = nf+1, m.points[:0]
	}
	r := run{int32(old), int32(actual - old)}
	if i, found := slices.BinarySearchFunc(m.points, old, compareOld); found {
		m.points[i] = r
	} else if len(m.points) < maxPoints {
		m.points = slices.Insert(m.points, i, r)
	}
	return true
}

// votes counts how often an old number has become a new one.
type votes [2]map[[2]int32]int

// numbers returns the runs that most fields agree with.
func (v *votes) numbers(own [2]int64) (n numbers) {
	for i, counts := range v {
		n[i] = moves{runs: runsOf(counts), own: own[i]}
	}
	return n
}

func runsOf(counts map[[2]int32]int) []run {
	type vote struct {
		pair  [2]int32
		count int
	}
	var all []vote
	for pair, count := range counts {
		if pair[0] >= 0 { // others are none
			all = append(all, vote{pair, count})
		}
	}
	slices.SortFunc(all, func(a, b vote) int {
		return cmp.Or(cmp.Compare(a.pair[0], b.pair[0]), cmp.Compare(b.count, a.count), cmp.Compare(a.pair[1], b.pair[1]))
	})
	all = slices.CompactFunc(all, func(a, b vote) bool { return a.pair[0] == b.pair[0] }) // the first has most votes
	for least := leastUses; ; least *= 2 {
		var runs []run
		uses := []int{}
		for _, x := range all {
			r := run{x.pair[0], x.pair[1] - x.pair[0]}
			last := len(runs) - 1
			switch {
			case last < 0 && r.shift == 0:
			case last >= 0 && runs[last].shift == r.shift:
				uses[last] += x.count
			case last >= 0 && uses[last] < least:
				runs, uses = runs[:last], uses[:last]
				if last > 0 && runs[last-1].shift == r.shift {
					uses[last-1] += x.count
					continue
				}
				fallthrough
			default:
				runs, uses = append(runs, r), append(uses, x.count)
			}
		}
		if len(runs) <= maxRuns {
			return runs
		}
	}
}

// append writes the runs as a stream.
func (n *numbers) append(b []byte) []byte {
	for _, m := range n {
		b = binary.AppendUvarint(b, uint64(m.own))
		b = binary.AppendUvarint(b, uint64(len(m.runs)))
		var before run
		for _, r := range m.runs {
			b = binary.AppendUvarint(b, uint64(r.old-before.old))
			b = binary.AppendVarint(b, int64(r.shift-before.shift))
			before = r
		}
	}
	return b
}

// readNumbers is the inverse of append.
func readNumbers(r io.ByteReader) (n numbers, err error) {
	for i := range n {
		own, err := binary.ReadUvarint(r)
		if err != nil || own > math.MaxInt32 {
			return n, malformed("the runs of its numbers are out of range")
		}
		n[i].own = int64(own)
		count, err := binary.ReadUvarint(r)
		if err != nil || count > maxRuns {
			return n, malformed("the runs of its numbers are out of range")
		}
		var before run
		for range count {
			gap, err := binary.ReadUvarint(r)
			if err != nil {
				return n, malformed("a run of numbers is missing")
			}
			shift, err := binary.ReadVarint(r)
			if err != nil {
				return n, malformed("a run of numbers is missing")
			}
			if gap > uint64(math.MaxInt32-before.old) {
				return n, malformed("the runs of its numbers are out of range")
			}
			before = run{before.old + int32(gap), before.shift + int32(shift)}
			n[i].runs = append(n[i].runs, before)
		}
	}
	return n, nil
}
