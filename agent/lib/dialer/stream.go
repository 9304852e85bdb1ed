package dialer

import (
	"encoding/binary"
	"errors"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

const (
	fixedHeader = 16
	// maxMessage is the limit of the specification, in bytes.
	maxMessage = 128 << 20
	// Any peer may send signals, and calls to a server. Longer ones than
	// these, in bytes, are dropped. The largest argument of a method is a
	// repository's root metadata, of some thousand bytes; a server needs no
	// large signals, and a client gets thousands of packages in one.
	maxCall         = 64 << 10
	maxServerSignal = 256 << 10
	maxSignal       = 8 << 20

	// keptBuffer is the largest buffer that is kept for the next message.
	keptBuffer = 1 << 20

	chunk   = 32 << 10 // the least buffer
	minRead = 4 << 10  // the least space for a read
	// maxOOB holds the most that one read brings: 253 descriptors (SCM_MAX_FD
	// of unix(7)), and the header before them.
	maxOOB = 4 << 10
)

// stream reads messages from a socket and finds the descriptors of each.
//
// The kernel ends a read behind the data that descriptors came with (unix(7)), and
// a bus sends them with the first byte of their message. So the descriptors of one
// read belong to the one message with descriptors that begins in it. Descriptors
// that were lost on the way (MSG_CTRUNC: this process has too many open) are thus
// missing from one message and confuse no other.
type stream struct {
	conn  *net.UnixConn
	base  []byte // buf is a part of it
	buf   []byte // read and not yet consumed
	pos   int64  // where buf begins, in bytes since the connection was made
	reads []read // those that brought descriptors, not yet consumed
	oob   [maxOOB]byte

	// Longer messages of the kind, in bytes, are left out; 0 allows all.
	maxCall, maxSignal int64
	// long receives the header of each call that is left out as too long; may be nil.
	long func(header *message) error
}

// read is what one system call brought.
type read struct {
	start, end int64 // its bytes, as pos counts
	fds        []int
	lost       bool // there were more
}

// fill reads more.
func (s *stream) fill() error {
	if cap(s.buf)-len(s.buf) < minRead {
		if 2*len(s.buf) > cap(s.base)-minRead {
			s.base = make([]byte, 0, max(2*len(s.buf), chunk))
		}
		s.buf = append(s.base[:0], s.buf...) // which may move within base
	}
	n, oobn, flags, _, err := s.conn.ReadMsgUnix(s.buf[len(s.buf):cap(s.buf)], s.oob[:])
	r := read{start: s.pos + int64(len(s.buf)), fds: parseRights(s.oob[:max(oobn, 0)]), lost: flags&unix.MSG_CTRUNC != 0}
	r.end = r.start + int64(max(n, 0))
	if len(r.fds) > 0 || r.lost {
		s.reads = append(s.reads, r)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return err
	}
	s.buf = s.buf[:len(s.buf)+n]
	return nil
}

// need reads until at least n bytes are there.
func (s *stream) need(n int) error {
	for len(s.buf) < n {
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// consume forgets n bytes, and closes the descriptors that were not taken from them.
func (s *stream) consume(n int) {
	s.buf, s.pos = s.buf[n:], s.pos+int64(n)
	for len(s.reads) > 0 && s.reads[0].end <= s.pos {
		closeAll(s.reads[0].fds)
		s.reads = s.reads[1:]
	}
	if len(s.buf) == 0 && cap(s.base) > keptBuffer {
		s.base, s.buf = nil, nil
	}
}

// take returns the n descriptors of the message at the start of the stream. The
// caller closes them. It returns nil if some are lost.
func (s *stream) take(n int) []int {
	for i := range s.reads {
		r := &s.reads[i]
		if r.start > s.pos || r.end <= s.pos || r.lost || len(r.fds) != n {
			continue
		}
		fds := r.fds
		r.fds = nil
		return fds
	}
	return nil
}

// close closes the descriptors that no message has taken.
func (s *stream) close() {
	for _, r := range s.reads {
		closeAll(r.fds)
	}
	s.reads = nil
}

// next returns the next decodable message. Its bytes are valid until the call
// of consume with its length, which is the caller's. Undecodable messages are
// dropped: one peer's bad message is not the end of the connection. Only a
// stream without message boundaries is an error.
func (s *stream) next() (*message, error) {
	for {
		if err := s.need(fixedHeader); err != nil {
			return nil, err
		}
		m := &message{}
		switch s.buf[0] {
		case 'l':
			m.order = binary.LittleEndian
		case 'B':
			m.order = binary.BigEndian
		default:
			return nil, errors.New("the bus sends what is no message")
		}
		fields := int64(m.order.Uint32(s.buf[12:]))
		m.body = fixedHeader + (fields+7)&^7
		size := m.body + int64(m.order.Uint32(s.buf[4:]))
		if size > maxMessage {
			return nil, errors.New("the bus sends a message that is longer than the specification allows")
		}
		most := map[byte]int64{typeCall: s.maxCall, typeSignal: s.maxSignal}[s.buf[1]]
		if most > 0 && size > most {
			if s.long != nil && s.buf[1] == typeCall && m.body <= most {
				if err := s.need(int(m.body)); err != nil {
					return nil, err
				}
				m.b = s.buf[:m.body]
				if m.parseFields(int(fixedHeader + fields)) {
					if err := s.long(m); err != nil {
						return nil, err
					}
				}
			}
			if err := s.discard(size); err != nil {
				return nil, err
			}
			continue
		}
		if err := s.need(int(size)); err != nil {
			return nil, err
		}
		m.b = s.buf[:size]
		if m.parse(int(fixedHeader + fields)) {
			return m, nil
		}
		s.consume(int(size))
	}
}

// discard reads past n bytes without keeping them.
func (s *stream) discard(n int64) error {
	for {
		now := min(n, int64(len(s.buf)))
		s.consume(int(now))
		if n -= now; n == 0 {
			return nil
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}

func parseRights(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if list, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, list...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
