package deflate

import "slices"

// Variant is a program and a level, from 1 to 9. The zero value is none.
type Variant uint8

// The programs. A variant is one of them with a level added.
const (
	Gzip      Variant = iota << levelBits // GNU gzip
	Zip                                   // zip of Info-ZIP
	Zlib                                  // zlib with memLevel 8
	ZlibLarge                             // zlib with memLevel 9

	levelBits = 4
	maxLevel  = 9
)

// Known reports whether there is a variant v.
func (v Variant) Known() bool {
	return v <= ZlibLarge+maxLevel && v.level() >= 1 && v.level() <= maxLevel
}

func (v Variant) program() Variant { return v &^ (1<<levelBits - 1) }
func (v Variant) level() int       { return int(v & (1<<levelBits - 1)) }

// Variants returns all variants, the most common ones of zip archives first.
func Variants() (all []Variant) {
	for _, level := range []Variant{6, 9, 1, 8, 5, 7, 4, 3, 2} {
		all = append(all, Zlib+level, Zip+level, ZlibLarge+level)
	}
	for level := Variant(maxLevel); level > 0; level-- {
		all = append(all, Gzip+level)
	}
	return all
}

// GzipVariants returns all variants, the most common ones of gzip files first.
func GzipVariants() []Variant {
	list := []Variant{Gzip + 9, Gzip + 6, Zlib + 9, Zlib + 6}
	for _, v := range Variants() {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// config is what a variant means.
type config struct {
	good  int // after a match of this length only a quarter of the chain is searched
	lazy  int // after a match of this length no better one is searched; fast: nor are its positions entered
	nice  int // a match of this length ends the search
	chain int // positions that are compared

	fast    bool // a match is written without a search for a better one behind it
	gnu     bool // searches beyond the end of the content, but not at the end of the buffer
	early   bool // ends a block early if little was saved
	shift   uint // of the hash for each byte
	symbols int  // literals and matches of a block, at most
}

var configs = [maxLevel + 1]config{
	1: {good: 4, lazy: 4, nice: 8, chain: 4}, 2: {good: 4, lazy: 5, nice: 16, chain: 8}, 3: {good: 4, lazy: 6, nice: 32, chain: 32},
	4: {good: 4, lazy: 4, nice: 16, chain: 16}, 5: {good: 8, lazy: 16, nice: 32, chain: 32}, 6: {good: 8, lazy: 16, nice: 128, chain: 128},
	7: {good: 8, lazy: 32, nice: 128, chain: 256}, 8: {good: 32, lazy: 128, nice: 258, chain: 1024}, 9: {good: 32, lazy: 258, nice: 258, chain: 4096},
}

func configOf(v Variant) config {
	c := configs[v.level()]
	c.fast = v.level() <= 3
	c.gnu = v.program() == Gzip
	c.early = v.program() <= Zip && v.level() > 2
	c.shift, c.symbols = 5, 32<<10-1
	switch v.program() {
	case Zlib:
		c.symbols = 16<<10 - 1
	case ZlibLarge:
		c.shift = 6
	}
	return c
}
