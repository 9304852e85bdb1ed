package delta_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lull/lull/agent/delta"
	"github.com/lull/lull/e2e/require"
)

// typesOf writes the types of a kernel, or of a module that is based on some.
type typesOf struct {
	base           *typesOf
	types, strings []byte
	count          uint32
	names          map[string]uint32
}

func newTypes(base *typesOf) *typesOf {
	t := &typesOf{base: base, names: map[string]uint32{"": 0}}
	if base == nil {
		t.strings = []byte{0}
	}
	return t
}

func (t *typesOf) name(s string) uint32 {
	off := uint32(0)
	if t.base != nil {
		if at, known := t.base.names[s]; known {
			return at
		}
		off = uint32(len(t.base.strings))
	}
	if _, known := t.names[s]; !known {
		t.names[s] = off + uint32(len(t.strings))
		t.strings = append(append(t.strings, s...), 0)
	}
	return t.names[s]
}

// add adds a type and returns its number.
func (t *typesOf) add(name string, kind, members, last uint32, more ...uint32) uint32 {
	for _, v := range append([]uint32{t.name(name), kind<<24 | members, last}, more...) {
		t.types = binary.LittleEndian.AppendUint32(t.types, v)
	}
	if t.count++; t.base != nil {
		return t.base.count + t.count
	}
	return t.count
}

// section returns the section .BTF.
func (t *typesOf) section() []byte {
	b := []byte{0x9f, 0xeb, 1, 0}
	for _, v := range []int{24, 0, len(t.types), len(t.types), len(t.strings)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return append(append(b, t.types...), t.strings...)
}

// kernel has a type of each kind for each of many names, in an order.
func kernel(order []int) (t *typesOf, byName map[string]uint32) {
	t, byName = newTypes(nil), map[string]uint32{}
	integer := t.add("int", 1, 0, 4, 32)
	for _, i := range order {
		pointer := t.add("", 2, 0, integer)
		name := fmt.Sprintf("record_%d", i)
		members := []uint32{t.name("next"), t.count, 0}
		for k := range i%7 + 1 {
			members = append(members, t.name(fmt.Sprintf("member_%d", (i*i+k)%500)), pointer, uint32(64*(k+1)))
		}
		s := t.add(name, 4, uint32(len(members)/3), uint32(8*len(members)/3), members...)
		prototype := t.add("", 13, 1, integer, t.name("record"), s)
		t.add(fmt.Sprintf("change_%d", i), 12, 1, prototype)
		t.add("", 3, 0, 0, s, integer, uint32(i))
		t.add(fmt.Sprintf("choice_%d", i), 6, 1, 4, t.name("none"), 7)
		byName[name] = s
	}
	return t, byName
}

// modules describe functions that use types of a kernel.
func modules(base *typesOf, byName map[string]uint32, n int) (list [][]byte) {
	rnd := rand.New(rand.NewSource(5))
	for m := range n {
		t := newTypes(base)
		for range 40 {
			i := rnd.Intn(len(byName))
			p := t.add("", 2, 0, byName[fmt.Sprintf("record_%d", i)])
			t.add(fmt.Sprintf("own_%d_%d", m, i), 4, 1, 8, t.name("next"), p, 0)
		}
		list = append(list, t.section())
	}
	return list
}

// object compiles a source to an object file, and adds a section .BTF to it.
func object(t *testing.T, source string, btf []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("source.c"), []byte(source), 0o600), os.WriteFile(path("btf"), btf, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{"gcc", "-O2", "-mcmodel=large", "-fno-asynchronous-unwind-tables", "-c", path("source.c"), "-o", path("object")},
		{"objcopy", "--add-section", ".BTF=" + path("btf"), path("object")},
	} {
		if out, err := exec.Command(require.Program(t, c[0]), c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}
	b, err := os.ReadFile(path("object"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// functions returns a source with functions that call each other, and a text of which they
// depend.
func functions(numbers []int) string {
	var s strings.Builder
	s.WriteString("extern int other(int, const char *);\n")
	for _, i := range numbers {
		fmt.Fprintf(&s, "int f%d(int);\n", i)
	}
	for k, i := range numbers {
		fmt.Fprintf(&s, "int f%d(int n) {\n", i)
		for m := range i*i%11 + 1 {
			fmt.Fprintf(&s, "\tif (n %% %d > %d) n = other(n ^ %d, \"text %d\") * %d;\n", i+m+2, m, i*m, i*11+m, i+m)
		}
		fmt.Fprintf(&s, "\treturn f%d(n / %d);\n}\n", numbers[(k+1)%len(numbers)], i+3)
	}
	return s.String()
}

// builds are the old and the new object files of a kernel of n records and its modules.
func builds(t *testing.T, n int) (old, new [][]byte) {
	var first, second []int
	for i := range n {
		first, second = append(first, i), append(second, (i+n/3)%n)
	}
	for _, x := range []struct {
		order []int
		code  []int
		to    *[][]byte
	}{{first, first[:n/2], &old}, {second, first[n/20 : n*5/9], &new}} {
		base, byName := kernel(x.order)
		*x.to = append(*x.to, object(t, functions(x.code), base.section()))
		for i, btf := range modules(base, byName, 3) {
			*x.to = append(*x.to, object(t, functions(x.code[i:]), btf))
		}
	}
	return old, new
}

// TestObjects: the types of modules, and their code before it has addresses, cost less than
// with other programs: other numbers of types, moved functions, and other symbols are predicted.
func TestObjects(t *testing.T) {
	require.NotShort(t)
	old, new := builds(t, 200)
	c := content{}
	var pairs []delta.Pair
	for i := range new {
		o := c.add(old[i])
		pairs = append(pairs, delta.Pair{New: c.add(new[i]), Old: &o})
	}
	pack := c.roundTrip(t, pairs...)
	sums := map[string]int64{}
	for i := range new {
		for name, size := range peers(t, old[i], new[i]) {
			sums[name] += size
		}
	}
	t.Logf("%d bytes; others: %v", len(pack), sums)
	for name, size := range sums {
		if int64(len(pack)) >= size {
			t.Errorf("the delta has %d bytes, want less than %d of %s", len(pack), size, name)
		}
	}
}

// TestOddObjects: whatever an object file has in it, it comes back.
func TestOddObjects(t *testing.T) {
	require.NotShort(t)
	old, new := builds(t, 30)
	rapid.Check(t, func(t *rapid.T) {
		c := content{}
		rnd := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		spoil := func(b []byte) []byte {
			b = bytes.Clone(b)
			for range rapid.IntRange(0, 40).Draw(t, "edits") {
				at := rnd.Intn(len(b) - 8)
				switch rnd.Intn(3) {
				case 0:
					binary.LittleEndian.PutUint32(b[at:], rnd.Uint32())
				case 1:
					clear(b[at:min(len(b), at+rnd.Intn(200))])
				default:
					b[at] ^= 1 << rnd.Intn(8)
				}
			}
			return b
		}
		var pairs []delta.Pair
		for i := range 2 {
			o := c.add(spoil(old[i]))
			pairs = append(pairs, delta.Pair{New: c.add(spoil(new[i])), Old: &o})
		}
		c.roundTrip(t, pairs...)
	})
}
