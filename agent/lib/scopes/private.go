package scopes

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// private is a connection to a manager's own socket for one call. There is no
// bus on it, no greeting is needed, and the manager sends all its signals to
// every connection. A launch waits for this call, so authentication and call
// are sent without waiting for an answer (D-Bus Specification, "Authentication
// Protocol": a client may send on before it has read), and the first as soon
// as there is a connection, so that systemd reads it while the call is
// prepared.
type private struct {
	fd int
	in *bufio.Reader
}

// errRefused reports that the manager has not accepted this process; then it
// has not read the call either.
var errRefused = errors.New("it refuses to talk to us")

// dialPrivate connects, and gives the connection the deadline of ctx.
func dialPrivate(ctx context.Context, socket string) (*private, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &private{fd: fd}
	p.in = bufio.NewReaderSize(p, 8192)
	if deadline, ok := ctx.Deadline(); ok {
		limit := unix.NsecToTimeval(max(time.Until(deadline), time.Microsecond).Nanoseconds())
		// Of one read or write; there are few.
		err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	}
	for err == nil {
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != unix.EINTR {
			break
		}
		err = nil
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: socket, Err: err}
	}
	if err := p.write(handshake(os.Getuid())); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, nil
}

func (p *private) close() error { return unix.Close(p.fd) }

// Read is for in.
func (p *private) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, context.DeadlineExceeded
		case err == nil && n == 0:
			return 0, errHungUp
		default:
			return max(n, 0), err
		}
	}
}

var errHungUp = errors.New("systemd has hung up")

// serial numbers the only call of a connection.
const serial = 1

// wait reads the answers to the call that send has made, and returns when the job has
// ended.
func (p *private) wait() error {
	line, err := p.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("%w: %.80q %w", errRefused, line, errors.Join(err))
	}
	var job dbus.ObjectPath
	for {
		m, err := p.next()
		if err != nil {
			return err
		}
		switch {
		case m.Type == dbus.TypeError && repliesTo(m):
			name, _ := m.Headers[dbus.FieldErrorName].Value().(string)
			return dbus.Error{Name: name, Body: m.Body}
		case m.Type == dbus.TypeMethodReply && repliesTo(m):
			if err := dbus.Store(m.Body, &job); err != nil {
				return err
			}
		case m.Type == dbus.TypeSignal && job != "":
			// The reply comes before the signal of the job's end.
			name, _ := m.Headers[dbus.FieldMember].Value().(string)
			if result, ok := removed(name, m.Body, job); ok {
				return outcome(result)
			}
		}
	}
}

// maxMessage bounds a message of systemd's, in bytes: what the specification
// allows.
const maxMessage = 128 << 20

// next returns the next message that may matter. Most are signals about units,
// and long; searching them for a word is faster than decoding them.
func (p *private) next() (*dbus.Message, error) {
	for {
		head, err := p.in.Peek(16)
		if err != nil {
			return nil, err
		}
		var order binary.ByteOrder = binary.LittleEndian
		if head[0] == 'B' {
			order = binary.BigEndian
		}
		// The fixed part, the header's fields padded to eight, the body.
		size := 16 + (uint64(order.Uint32(head[12:]))+7)&^7 + uint64(order.Uint32(head[4:]))
		if size > maxMessage {
			return nil, errors.New("systemd has sent what is no message")
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(p.in, b); err != nil {
			return nil, err
		}
		if dbus.Type(b[1]) == dbus.TypeSignal && !bytes.Contains(b, []byte("JobRemoved")) {
			continue
		}
		return dbus.DecodeMessage(bytes.NewReader(b))
	}
}

func repliesTo(m *dbus.Message) bool {
	return m.Headers[dbus.FieldReplySerial].Value() == uint32(serial)
}

// send calls StartTransientUnit. A connection that is closed already has been refused.
func (p *private) send(args []any) error {
	b, err := request(args)
	if err != nil {
		return err
	}
	return p.write(b)
}

func (p *private) write(b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(p.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
			return fmt.Errorf("%w: %w", errRefused, os.NewSyscallError("send", err))
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("send", err)
		}
		b = b[max(n, 0):]
	}
	return nil
}

// handshake authenticates a user.
func handshake(user int) []byte {
	return []byte("\x00AUTH EXTERNAL " + hex.EncodeToString([]byte(strconv.Itoa(user))) + "\r\nBEGIN\r\n")
}

// request is the call.
func request(args []any) ([]byte, error) {
	m := dbus.Message{Type: dbus.TypeMethodCall, Body: args, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:        dbus.MakeVariant(object),
		dbus.FieldDestination: dbus.MakeVariant(destination),
		dbus.FieldInterface:   dbus.MakeVariant(manager),
		dbus.FieldMember:      dbus.MakeVariant("StartTransientUnit"),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(args...)),
	}}
	var call bytes.Buffer
	if err := m.EncodeTo(&call, binary.LittleEndian); err != nil {
		return nil, err
	}
	// The library keeps serials to itself. It is the third word of a message.
	binary.LittleEndian.PutUint32(call.Bytes()[8:], serial)
	return call.Bytes(), nil
}
