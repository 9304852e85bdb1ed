package delta

import (
	"bytes"
	"maps"
	"slices"

	"github.com/lull/lull/agent/lib/deflate"
)

// maxGrown is how many bytes of content of streams the forms of the old or the new files of a group
// have, at most. Streams beyond that stay as they are.
const maxGrown = 128 << 20

// unpacker finds the forms of files that contain compressed streams, for one group.
type unpacker struct {
	guess  guesser
	grown  [2]int                  // bytes of content of streams in old and new files
	chosen map[int]map[string]bool // by old file: members that are unpacked in it and in a new file
}

// newForm returns the form of a new file with its bytes, or nil. Index is that of the old file, if
// any, and old returns its content.
func (u *unpacker) newForm(b []byte, index int, old func() []byte) (*form, []byte) {
	u.guess.failed = 0
	if x, unpacked := gzipForm(b); x != nil {
		k := &x.blocks[0]
		variant, ok := u.guess.variant(b[k.before:k.before+k.packed], unpacked[k.before:k.before+k.content], deflate.GzipVariants())
		if !ok || !u.grow(1, int(k.content)) {
			return nil, nil
		}
		k.variant = variant
		return x, unpacked
	}
	members := deflate.Members(b)
	if len(members) == 0 {
		return nil, nil
	}
	same := map[string][]byte{}
	if before := old(); before != nil {
		for _, m := range deflate.Members(before) {
			same[m.Name] = before[m.Off : m.Off+m.Size]
		}
	}
	members = slices.DeleteFunc(members, func(m deflate.Member) bool { return bytes.Equal(same[m.Name], b[m.Off:m.Off+m.Size]) })
	names := map[string]bool{}
	variants := deflate.Variants()
	x, unpacked := archiveForm(b, members, func(m deflate.Member, content []byte) (deflate.Variant, bool) {
		variant, ok := u.guess.variant(b[m.Off:m.Off+m.Size], content, variants)
		ok = ok && u.grow(1, len(content))
		names[m.Name] = names[m.Name] || ok
		return variant, ok
	})
	if x != nil && index >= 0 {
		if u.chosen[index] == nil {
			u.chosen[index] = names
		}
		maps.Copy(u.chosen[index], names)
	}
	return x, unpacked
}

// oldForm returns the form of an old file with its bytes, or nil. The form has blocks in the pack
// if archive is true.
func (u *unpacker) oldForm(b []byte, index int) (x *form, unpacked []byte, archive bool) {
	if names := u.chosen[index]; names != nil {
		members := slices.DeleteFunc(deflate.Members(b), func(m deflate.Member) bool { return !names[m.Name] })
		x, unpacked := archiveForm(b, members, func(_ deflate.Member, content []byte) (deflate.Variant, bool) {
			return 0, u.grow(0, len(content))
		})
		return x, unpacked, true
	}
	if len(b) > maxUnpacked {
		return nil, nil, false
	}
	if deflate.Find(b) > 0 {
		x, unpacked := gzipForm(b)
		if x != nil && !u.grow(0, int(x.blocks[0].content)) {
			return nil, nil, false
		}
		return x, unpacked, false
	}
	x, unpacked = frameForm(b)
	return x, unpacked, false
}

// grow reports whether so many bytes more may be unpacked.
func (u *unpacker) grow(i, n int) bool {
	if u.grown[i]+n > maxGrown {
		return false
	}
	u.grown[i] += n
	return true
}

// gzipForm returns the form of a gzip file with its bytes, or nil.
func gzipForm(b []byte) (*form, []byte) {
	off := deflate.Find(b)
	if off == 0 || len(b) > maxUnpacked {
		return nil, nil
	}
	var out bytes.Buffer
	out.Write(b[:off])
	content, size, err := deflate.Unpack(&out, b[off:])
	if err != nil || content == 0 {
		return nil, nil
	}
	end := off + size
	out.Write(b[end:])
	x := &form{blocks: []formBlock{{before: uint32(off), content: uint32(content), packed: uint32(size)}}, tail: int64(len(b) - end)}
	return x, out.Bytes()
}

// archiveForm returns the form of a file with its bytes. Choose decides which of the streams are
// unpacked; if it takes none, the form is nil.
func archiveForm(b []byte, members []deflate.Member, choose func(deflate.Member, []byte) (deflate.Variant, bool)) (*form, []byte) {
	x := &form{}
	var out, content bytes.Buffer
	end := 0
	for _, m := range members {
		content.Reset()
		n, size, err := deflate.Unpack(&content, b[m.Off:m.Off+m.Size])
		if err != nil || n == 0 || size != m.Size {
			continue
		}
		variant, ok := choose(m, content.Bytes())
		if !ok {
			continue
		}
		out.Write(b[end:m.Off])
		out.Write(content.Bytes())
		x.blocks = append(x.blocks, formBlock{before: uint32(m.Off - end), content: uint32(n), packed: uint32(size), variant: variant})
		end = m.Off + m.Size
		if len(x.blocks) == maxBlocks {
			break
		}
	}
	if len(x.blocks) == 0 {
		return nil, nil
	}
	out.Write(b[end:])
	x.tail = int64(len(b) - end)
	return x, out.Bytes()
}

// guesser finds the variants of streams.
type guesser struct {
	zip    *deflate.Writer
	known  []deflate.Variant // have been found, the last one first
	failed int
}

// maxFailed is how many streams all variants are tried for in vain. Then only known ones are.
const maxFailed = 32

// variant returns the variant that makes a stream.
func (g *guesser) variant(stream, content []byte, list []deflate.Variant) (deflate.Variant, bool) {
	for i, v := range g.known {
		if g.makes(stream, content, v) {
			g.known = slices.Insert(slices.Delete(g.known, i, i+1), 0, v)
			return v, true
		}
	}
	if g.failed == maxFailed {
		return 0, false
	}
	for _, v := range list {
		if !slices.Contains(g.known, v) && g.makes(stream, content, v) {
			g.known = slices.Insert(g.known, 0, v)
			return v, true
		}
	}
	g.failed++
	return 0, false
}

func (g *guesser) makes(stream, content []byte, v deflate.Variant) bool {
	out := &equal{want: stream}
	if g.zip == nil {
		g.zip = deflate.NewWriter(out, v)
	}
	g.zip.Reset(out, v)
	_, err := g.zip.Write(content)
	return err == nil && g.zip.Close() == nil && out.Close() == nil
}
