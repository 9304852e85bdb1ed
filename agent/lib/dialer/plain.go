package dialer

import (
	"bytes"
	"errors"
	"io"
	"net"
)

// plain is a connection for a client that wants no descriptors. It negotiates
// them all the same, and closes those that arrive: dbus-broker ends the
// connection of a client that cannot receive a descriptor that is sent to it,
// and any peer may send one. It passes on messages that godbus can decode, as
// a gate does.
//
// godbus authenticates, then starts to read; Read and Write may run side by side
// after that.
type plain struct {
	s     stream
	begun bool   // authentication is over
	line  bool   // the bus's answer about descriptors has come
	rest  []byte // of the message that is being read
	size  int    // of that message in the stream
}

func newPlain(c *net.UnixConn) *plain {
	return &plain{s: stream{conn: c, maxCall: maxCall, maxSignal: maxSignal}}
}

// Write adds the question about descriptors before the end of the authentication,
// and does not wait for the answer to it: the bus takes lines in their order.
func (p *plain) Write(b []byte) (int, error) {
	if p.begun || !bytes.Equal(b, beginLine) {
		return p.s.conn.Write(b)
	}
	p.begun = true
	if _, err := p.s.conn.Write(append([]byte("NEGOTIATE_UNIX_FD\r\n"), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *plain) Read(b []byte) (int, error) {
	if !p.begun {
		return p.s.conn.Read(b)
	}
	n, err := p.read(b)
	if err != nil {
		p.s.close()
	}
	return n, err
}

func (p *plain) read(b []byte) (int, error) {
	for !p.line {
		if at := bytes.Index(p.s.buf, []byte("\r\n")); at >= 0 { // AGREE_UNIX_FD, or ERROR
			p.s.consume(at + 2)
			p.line = true
		} else if len(p.s.buf) > chunk {
			return 0, errors.New("the bus does not answer as one does")
		} else if err := p.s.fill(); err != nil {
			return 0, err
		}
	}
	if len(p.rest) == 0 {
		p.s.consume(p.size)
		p.size = 0
		m, err := p.s.next()
		if err != nil {
			return 0, err
		}
		p.rest, p.size = m.clean(false), len(m.b)
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close may be called while a Read is under way, which then ends with an error and
// closes the descriptors in the stream.
func (p *plain) Close() error { return p.s.conn.Close() }

var _ io.ReadWriteCloser = (*plain)(nil)
