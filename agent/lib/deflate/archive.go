package deflate

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Member is a compressed file in a zip archive.
type Member struct {
	Name    string
	Off     int // of the stream
	Size    int // bytes of the stream
	Content int // bytes of the content, as the archive says
}

// The records of APPNOTE.TXT, the specification of zip archives.
const (
	endSize     = 22 // end of central directory, without a comment
	centralSize = 46
	localSize   = 30
	maxComment  = 1<<16 - 1

	methodDeflate = 8
	flagEncrypted = 1
)

// Members returns the members of a zip archive that are compressed with DEFLATE, by their
// offsets. They do not overlap. If b is no archive, there are none.
func Members(b []byte) (members []Member) {
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	last := b[max(len(b)-endSize-maxComment, 0):]
	i := bytes.LastIndex(last, []byte("PK\x05\x06"))
	if i < 0 || len(last)-i < endSize {
		return nil
	}
	directory := int64(u32(last[i+16:]))
	if directory > int64(len(b)) {
		return nil
	}
	for c := b[directory:]; len(c) >= centralSize && string(c[:4]) == "PK\x01\x02"; {
		name := int(u16(c[28:]))
		next := centralSize + name + int(u16(c[30:])) + int(u16(c[32:]))
		if next > len(c) {
			break
		}
		local := int64(u32(c[42:]))
		if u16(c[10:]) == methodDeflate && u16(c[8:])&flagEncrypted == 0 && local+localSize <= int64(len(b)) {
			l := b[local:]
			m := Member{string(c[centralSize : centralSize+name]), int(local) + localSize + int(u16(l[26:])) + int(u16(l[28:])), int(u32(c[20:])), int(u32(c[24:]))}
			if string(l[:4]) == "PK\x03\x04" && m.Off <= len(b) && m.Size > 0 && m.Size <= len(b)-m.Off {
				members = append(members, m)
			}
		}
		c = c[next:]
	}
	slices.SortStableFunc(members, func(a, b Member) int { return a.Off - b.Off })
	end := 0
	return slices.DeleteFunc(members, func(m Member) bool {
		if m.Off < end {
			return true
		}
		end = m.Off + m.Size
		return false
	})
}
