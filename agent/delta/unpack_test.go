package delta

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"testing"

	"github.com/lull/lull/agent/lib/deflate"
	"github.com/lull/lull/e2e/require"
)

// TestUnpackIsBounded: whatever an old file has in it, no more is written than the pack has
// announced, for which there is space.
func TestUnpackIsBounded(t *testing.T) {
	for _, c := range []struct {
		program      string
		flags        []string
		content, all int64 // all: with what precedes and follows the blocks
	}{
		{"lz4", []string{"-l", "-c", "-q", "-9"}, 20 << 20, 20<<20 + 4},
		{"gzip", []string{"-n", "-9"}, 15 << 20, 15<<20 + 10 + 8},
	} {
		t.Run(c.program, func(t *testing.T) {
			bomb := exec.Command(require.Program(t, c.program), c.flags...)
			bomb.Stdin = bytes.NewReader(make([]byte, c.content))
			packed, err := bomb.Output()
			if err != nil {
				t.Fatal(err)
			}
			testUnpackIsBounded(t, packed, c.content, c.all)
		})
	}
}

func testUnpackIsBounded(t *testing.T, packed []byte, content, size int64) {
	f := File{Size: int64(len(packed))}
	for _, announced := range []int64{0, 1, 12, size - 1, size, size + 1} {
		var out bytes.Buffer
		in, err := unpackOld(bytes.NewReader(packed), f, announced, &out, version)
		if int64(out.Len()) > announced {
			t.Errorf("announced %d: %d bytes are written, want that at most", announced, out.Len())
		}
		if announced == size && (err != nil || in.size != content) {
			t.Errorf("the right size: got %+v and %v, want %d bytes and no error", in, err, content)
		}
		if announced != size && !errors.Is(err, ErrMalformed) {
			t.Errorf("announced %d of %d: got %v, want %v", announced, size, err, ErrMalformed)
		}
	}
}

// TestUnpackStreamsIsBounded: the same of streams in an old archive. No sizes but the right ones
// are accepted.
func TestUnpackStreamsIsBounded(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("head")
	w := deflate.NewWriter(&b, deflate.Zlib+6)
	const content = 8 << 20
	if _, err := w.Write(make([]byte, content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed := b.Len() - 4
	b.WriteString("tail")
	for _, k := range []formBlock{
		{4, content, uint32(packed), 0}, {4, content - 1, uint32(packed), 0}, {4, content + 1, uint32(packed), 0}, {4, 1, uint32(packed), 0},
		{3, content, uint32(packed), 0}, {4, content, uint32(packed) / 2, 0}, {4, content, uint32(packed) + 9, 0}, {maxGroup, content, 1, 0},
	} {
		x := &form{blocks: []formBlock{k}, tail: 4}
		var out bytes.Buffer
		err := unpackStreams(t.Context(), bytes.NewReader(b.Bytes()), File{Size: int64(b.Len())}, x, &out)
		if n := int64(out.Len()); n > x.size() || (err == nil) != (k.content == content && k.packed == uint32(packed) && k.before == 4) {
			t.Errorf("%+v: %d bytes are written, %v; want %d at most, and an error for wrong sizes", k, n, err, x.size())
		}
	}
}

// TestFormsAreChecked: a header whose forms make no sense is malformed.
func TestFormsAreChecked(t *testing.T) {
	block := formBlock{1, 20, 10, deflate.Zlib + 6}
	with := func(change func(*formBlock)) formBlock {
		b := block
		change(&b)
		return b
	}
	for name, c := range map[string]struct {
		form     form
		old, bad bool
	}{
		"right":              {form: form{blocks: []formBlock{block, block}, tail: 1}},
		"right, old":         {form: form{blocks: []formBlock{{1, 20, 10, 0}}, tail: 1}, old: true},
		"right frame":        {form: form{frame: true, blocks: []formBlock{{1, 20, 10, 0}}, tail: 1}},
		"empty block":        {form: form{blocks: []formBlock{with(func(b *formBlock) { b.content = 0 })}}, bad: true},
		"unknown variant":    {form: form{blocks: []formBlock{with(func(b *formBlock) { b.variant = 0x4f })}}, bad: true},
		"no variant":         {form: form{blocks: []formBlock{with(func(b *formBlock) { b.variant = 0 })}}, bad: true},
		"variant, old":       {form: form{blocks: []formBlock{block}}, old: true, bad: true},
		"variant in a frame": {form: form{frame: true, blocks: []formBlock{block}}, bad: true},
		"frame, old":         {form: form{frame: true, blocks: []formBlock{{1, 20, 10, 0}}}, old: true, bad: true},
		"large content":      {form: form{blocks: []formBlock{with(func(b *formBlock) { b.content = deflate.MaxContent + 1 })}}, bad: true},
		"large frame":        {form: form{frame: true, blocks: make([]formBlock, maxFrame+1)}, bad: true},
		"many blocks":        {form: form{blocks: slices.Repeat([]formBlock{block}, maxBlocks+1)}, bad: true},
	} {
		p := &parser{b: appendForm(nil, &c.form), blocks: allBlocks}
		if p.form(c.form.packed(), c.old); errors.Is(p.err, ErrMalformed) != c.bad || p.err == nil && len(p.b) > 0 {
			t.Errorf("%s: got %v and %d bytes left, want an error: %t", name, p.err, len(p.b), c.bad)
		}
		p = &parser{b: appendForm(nil, &c.form), blocks: allBlocks}
		if p.form(c.form.packed()+1, c.old); !errors.Is(p.err, ErrMalformed) {
			t.Errorf("%s, with another size: got %v, want %v", name, p.err, ErrMalformed)
		}
	}
	p := &parser{blocks: allBlocks}
	whole := form{blocks: slices.Repeat([]formBlock{block}, maxBlocks)}
	for range allBlocks / maxBlocks {
		p.b = appendForm(nil, &whole)
		p.form(whole.packed(), false)
	}
	if p.err != nil {
		t.Error(p.err)
	}
	p.b = appendForm(nil, &form{blocks: []formBlock{block}})
	if p.form(11, false); !errors.Is(p.err, ErrMalformed) {
		t.Errorf("more blocks than a pack has: got %v, want %v", p.err, ErrMalformed)
	}
}
