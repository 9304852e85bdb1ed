package dialer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A gate stands between the bus and godbus on a connection that passes
// descriptors. The library decodes a message with descriptors in a goroutine of
// its own, where some bodies (an array of them) make it panic, so that anybody
// who may send a signal could end the process. The gate drops messages with
// descriptors that nobody has asked for: calls and signals always, replies
// unless they are expected. Without descriptors the library decodes safely.
//
// Two goroutines copy, one each way; both end when either side closes.
type gate struct {
	bus, lib *net.UnixConn
	replies  bool // replies may carry descriptors

	mu    sync.Mutex // guards begun
	begun bool       // authentication is over: messages follow
}

// Message types and the header field of the D-Bus specification, "Message Format".
const (
	typeReply    = 2
	fieldUnixFDs = 9
	fixedHeader  = 16
	maxMessage   = 128 << 20
)

// gated returns the library's end of a gate before the bus at c.
func gated(c *net.UnixConn, replies bool) (*net.UnixConn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "gate")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		ends[i] = conn.(*net.UnixConn)
	}
	g := &gate{bus: c, lib: ends[1], replies: replies}
	go g.run(g.out)
	go g.run(g.in)
	return ends[0], nil
}

func (g *gate) run(copy func() error) {
	_ = copy() // how it ended, the other side sees as the end of the connection
	g.bus.Close()
	g.lib.Close()
}

const (
	chunk   = 64 << 10
	maxOOB  = 4 << 10
	beginOK = "BEGIN\r\n"
)

// out hands on everything, and notices the end of the authentication.
func (g *gate) out() error {
	buf, oob := make([]byte, chunk), make([]byte, maxOOB)
	var tail string
	begun := false
	for {
		n, oobn, _, _, err := g.lib.ReadMsgUnix(buf, oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return err
		}
		if !begun {
			tail += string(buf[:n])
			if begun = strings.Contains(tail, beginOK); begun {
				g.mu.Lock()
				g.begun = true
				g.mu.Unlock()
			}
			tail = tail[max(0, len(tail)-len(beginOK)):]
		}
		err = sendAll(g.bus, buf[:n], oob[:oobn])
		closeRights(oob[:oobn]) // ours were copies
		if err != nil {
			return err
		}
	}
}

// in hands on the lines of the authentication and then message by message.
func (g *gate) in() error {
	r := &rights{conn: g.bus}
	defer func() { r.drop(len(r.fds)) }()
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if err != nil {
			return err
		}
		g.mu.Lock()
		begun := g.begun
		g.mu.Unlock()
		if begun {
			return g.messages(io.MultiReader(strings.NewReader(string(buf[:n])), r), r)
		}
		if _, err := g.lib.Write(buf[:n]); err != nil {
			return err
		}
	}
}

func (g *gate) messages(in io.Reader, r *rights) error {
	for {
		head := make([]byte, fixedHeader)
		if _, err := io.ReadFull(in, head); err != nil {
			return err
		}
		var order binary.ByteOrder = binary.LittleEndian
		if head[0] == 'B' {
			order = binary.BigEndian
		}
		fields := (int64(order.Uint32(head[12:])) + 7) &^ 7
		body := int64(order.Uint32(head[4:]))
		if fields+body > maxMessage {
			return errors.New("the bus sends a message that is longer than the specification allows")
		}
		header := make([]byte, fields)
		if _, err := io.ReadFull(in, header); err != nil {
			return err
		}
		fds, err := countFDs(header[:order.Uint32(head[12:])], order)
		if err != nil {
			return err
		}
		if fds > len(r.fds) {
			return errors.New("the bus announces descriptors that it does not send")
		}
		if fds > 0 && !(g.replies && head[1] == typeReply) {
			r.drop(fds)
			if _, err := io.CopyN(io.Discard, in, body); err != nil {
				return err
			}
			continue
		}
		var oob []byte
		if fds > 0 {
			oob = unix.UnixRights(r.fds[:fds]...)
		}
		err = sendAll(g.lib, append(head, header...), oob)
		r.drop(fds)
		if err == nil {
			_, err = io.CopyN(g.lib, in, body)
		}
		if err != nil {
			return err
		}
	}
}

// sendAll writes b; oob goes with its first byte.
func sendAll(to *net.UnixConn, b, oob []byte) error {
	n, _, err := to.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = to.Write(b[n:])
	}
	return err
}

// countFDs finds the field UNIX_FDS among the header fields, an array of (yv)
// whose values are strings, signatures or numbers.
func countFDs(b []byte, order binary.ByteOrder) (int, error) {
	bad := errors.New("the bus sends a message with a header that cannot be read")
	for at := 0; at < len(b); {
		if at = (at + 7) &^ 7; at+4 > len(b) {
			return 0, bad
		}
		code, kind := b[at], b[at+2]
		if b[at+1] != 1 || b[at+3] != 0 {
			return 0, bad
		}
		at += 4
		switch kind {
		case 'g':
			if at >= len(b) {
				return 0, bad
			}
			at += int(b[at]) + 2
		case 's', 'o', 'u':
			if at = (at + 3) &^ 3; at+4 > len(b) {
				return 0, bad
			}
			v := order.Uint32(b[at:])
			if at += 4; kind != 'u' {
				at += int(v) + 1
			} else if code == fieldUnixFDs {
				return int(v), nil
			}
		default:
			return 0, bad
		}
	}
	return 0, nil
}

// rights reads a stream and keeps the descriptors that come with it, in order.
type rights struct {
	conn *net.UnixConn
	fds  []int
	oob  [maxOOB]byte
}

func (r *rights) Read(b []byte) (int, error) {
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(b, r.oob[:])
	if err != nil {
		return n, err
	}
	r.fds = append(r.fds, parseRights(r.oob[:oobn])...)
	if flags&unix.MSG_CTRUNC != 0 {
		return n, errors.New("the bus sends more descriptors than there is room for")
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// drop closes the first n.
func (r *rights) drop(n int) {
	for _, fd := range r.fds[:n] {
		unix.Close(fd)
	}
	r.fds = r.fds[n:]
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

func closeRights(oob []byte) {
	for _, fd := range parseRights(oob) {
		unix.Close(fd)
	}
}
