package dialer

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// busSender is the name under which the bus itself answers.
const busSender = "org.freedesktop.DBus"

// carriers are the methods whose replies carry descriptors, with the signature of
// the reply. No method of ours takes a descriptor.
var carriers = map[string]string{
	"org.freedesktop.DBus.GetConnectionCredentials": "a{sv}", // ProcessFD, since 1.15.8
	"org.freedesktop.login1.Manager.Inhibit":        "h",
	"org.lull.Agent1.Manager.Open":                  "hhs",
	"org.lull.Agent1.Manager.Resolve":               "hhss",
	"org.lull.Agent1.Job.Take":                      "hh",
	"org.lull.Agent1.Manager.SendFile":              "hs",
	"org.lull.Agent1.Manager.ResolveFiles":          "hhsss",
}

const (
	// maxFDs is how many descriptors a reply may carry.
	maxFDs = 2
	// maxAsked is how many calls may wait for a reply with descriptors. The
	// replies to more come without them.
	maxAsked = 4096
)

// A gate stands between the bus and godbus on a connection that passes
// descriptors. The library decodes a message with descriptors in a goroutine of
// its own, where some bodies (an array of them) make it panic, and it closes the
// connection at a body that it cannot decode, so that any sender of a signal
// could end the process. The gate passes on messages that the library
// can decode and leaves out all others. Descriptors pass with the reply to a call
// that asked for them; everywhere else they are closed, and the message goes on
// without them.
//
// A gate of a server also shares its time between its callers: see fair.
//
// Two goroutines copy, one each way, and one admits calls that have waited; all end
// when either side closes.
type gate struct {
	bus, lib *net.UnixConn
	replies  bool          // replies of others than the bus may carry descriptors
	fair     *fair         // nil means that calls pass as they come
	done     chan struct{} // closed when the gate closes
	closing  sync.Once

	// entering is held while one message is written to the library: by in, and by admit.
	entering sync.Mutex

	// sending is held while one message is written to the bus: by out, and by in, which
	// refuses calls.
	sending sync.Mutex

	mu    sync.Mutex
	begun bool              // guarded by mu: authentication is over, messages follow
	asked map[uint32]string // guarded by mu: serial of a call → signature of its reply
}

// gated returns the library's end of a gate before the bus at c. user may be nil.
func gated(c *net.UnixConn, replies bool, user func(string) (uint32, error)) (*net.UnixConn, error) {
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
	g := &gate{bus: c, lib: ends[1], replies: replies, done: make(chan struct{}), asked: map[uint32]string{}}
	if user != nil {
		g.fair = newFair(user)
		go g.run(g.admit)
	}
	go g.run(g.out)
	go g.run(g.in)
	return ends[0], nil
}

func (g *gate) run(copy func() error) {
	_ = copy() // how it ended, the other side sees as the end of the connection
	g.bus.Close()
	g.lib.Close()
	g.closing.Do(func() { close(g.done) })
}

var beginLine = []byte("BEGIN\r\n")

// out hands on what the library sends, and notes which replies may carry descriptors.
func (g *gate) out() error {
	s := &stream{conn: g.lib}
	defer s.close()
	for { // the lines of the authentication
		if err := s.fill(); err != nil {
			return err
		}
		var n int
		at := bytes.Index(s.buf, beginLine)
		if at >= 0 {
			n = at + len(beginLine)
			g.mu.Lock()
			g.begun = true
			g.mu.Unlock()
		} else if n = bytes.LastIndexByte(s.buf, '\n') + 1; len(s.buf) == 1 {
			n = 1 // the zero byte before the first line
		}
		if _, err := g.bus.Write(s.buf[:n]); err != nil {
			return err
		}
		s.consume(n)
		if at >= 0 {
			break
		}
	}
	for {
		m, err := s.next()
		if err != nil {
			return err
		}
		g.note(m)
		wanted := true
		if g.fair != nil && (m.kind() == typeReply || m.kind() == typeError) {
			var serial uint32
			serial, wanted = g.fair.replied(m.reply)
			m.answer(serial)
		}
		b := m.b
		var fds []int
		if m.fds > 0 {
			if fds = s.take(int(m.fds)); fds == nil {
				b = lostFDs(m) // or the bus would end the connection
			}
		}
		if wanted {
			g.sending.Lock()
			err = sendAll(g.bus, b, fds)
			g.sending.Unlock()
		}
		closeAll(fds) // ours were copies
		if err != nil {
			return err
		}
		s.consume(len(m.b))
	}
}

// note remembers a call whose reply may carry descriptors.
func (g *gate) note(m *message) {
	if m.kind() != typeCall || m.b[flagsAt]&noReply != 0 {
		return
	}
	sig, ok := carriers[m.words[fieldInterface]+"."+m.words[fieldMember]]
	if !ok || !g.replies && m.words[fieldDestination] != busSender {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.asked) < maxAsked {
		g.asked[m.serial()] = sig
	}
}

// lostFDs is what goes out in the place of a message of ours whose descriptors did
// not fit into this process: an error to the caller.
func lostFDs(m *message) []byte {
	e := &dbus.Message{Type: dbus.TypeError, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldErrorName:   dbus.MakeVariant("org.lull.Error.LimitsExceeded"),
		dbus.FieldReplySerial: dbus.MakeVariant(m.reply),
		dbus.FieldDestination: dbus.MakeVariant(m.words[fieldDestination]),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf("")),
	}, Body: []any{"cannot pass descriptors: too many are open"}}
	var b bytes.Buffer
	if m.kind() != typeReply || e.EncodeTo(&b, m.order) != nil {
		return m.clean(false)
	}
	m.order.PutUint32(b.Bytes()[serialAt:], m.serial())
	return b.Bytes()
}

// tooLong answers a call that is left out as too long, so that its caller does not
// wait in vain.
func (g *gate) tooLong(m *message) error {
	if g.fair != nil && g.fair.tooLong(m) != refuse {
		return nil
	}
	return g.refuse(m, tooLong)
}

// refuse answers a call that the library does not get.
func (g *gate) refuse(m *message, text string) error {
	if m.b[flagsAt]&noReply != 0 {
		return nil
	}
	e := &dbus.Message{Type: dbus.TypeError, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldErrorName:   dbus.MakeVariant("org.lull.Error.LimitsExceeded"),
		dbus.FieldReplySerial: dbus.MakeVariant(m.serial()),
		dbus.FieldDestination: dbus.MakeVariant(m.words[fieldSender]),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf("")),
	}, Body: []any{text}}
	var b bytes.Buffer
	if err := e.EncodeTo(&b, m.order); err != nil {
		return nil // the caller gave no name for a reply
	}
	m.order.PutUint32(b.Bytes()[serialAt:], refusedSerial)
	g.sending.Lock()
	defer g.sending.Unlock()
	return sendAll(g.bus, b.Bytes(), nil)
}

// refusedSerial is the serial of errors of the gate itself. The library, which counts
// from 1, does not reach it.
const refusedSerial = 1<<32 - 1

// in hands on the lines of the authentication and then message by message.
func (g *gate) in() error {
	s := &stream{conn: g.bus, maxCall: maxCall, maxSignal: maxServerSignal, long: g.tooLong}
	if g.replies {
		s.maxSignal = maxSignal // a client
	}
	defer s.close()
	for {
		if err := s.fill(); err != nil {
			return err
		}
		g.mu.Lock()
		begun := g.begun
		g.mu.Unlock()
		if begun {
			break
		}
		if _, err := g.lib.Write(s.buf); err != nil {
			return err
		}
		s.consume(len(s.buf))
	}
	for {
		m, err := s.next()
		if err != nil {
			return err
		}
		var fds []int
		if g.admits(m) {
			fds = s.take(int(m.fds))
		}
		if b := m.clean(fds != nil); g.fair != nil && m.kind() == typeCall {
			err = g.arrive(m, b)
		} else {
			err = g.enter(b, fds)
		}
		closeAll(fds)
		if err != nil {
			return err
		}
		s.consume(len(m.b))
	}
}

// Why calls are refused.
var (
	tooMany = "cannot take the call: too many calls of this user are under way\nhint: wait for the answers to those"
	tooLong = fmt.Sprintf("cannot take the call: it is longer than %d KiB", maxCall>>10)
)

// arrive hands on a call, unless its user has too many.
func (g *gate) arrive(m *message, b []byte) error {
	switch g.fair.arrive(m, b) {
	case pass:
		return g.enter(b, nil)
	case refuse:
		return g.refuse(m, tooMany)
	}
	return nil
}

// admit hands on calls that have waited, when they are due.
func (g *gate) admit() error {
	timer := time.NewTimer(forever)
	defer timer.Stop()
	for {
		c, wait := g.fair.next()
		var err error
		switch {
		case c.b != nil:
			err = g.enter(c.b, nil)
		case c.m != nil:
			err = g.refuse(c.m, c.why)
		}
		if err != nil {
			return err
		}
		if c.m != nil {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-g.fair.wake:
		case <-g.done:
			return nil
		}
	}
}

// enter writes a message to the library.
func (g *gate) enter(b []byte, fds []int) error {
	g.entering.Lock()
	defer g.entering.Unlock()
	return sendAll(g.lib, b, fds)
}

// admits reports whether the descriptors of a message may go to the library.
func (g *gate) admits(m *message) bool {
	if m.kind() != typeReply && m.kind() != typeError {
		return false
	}
	g.mu.Lock()
	sig, ok := g.asked[m.reply]
	delete(g.asked, m.reply)
	g.mu.Unlock()
	return ok && m.fds > 0 && m.kind() == typeReply && m.words[fieldSignature] == sig && m.passes(maxFDs)
}

// sendAll writes b; the descriptors go with its first byte.
func sendAll(to *net.UnixConn, b []byte, fds []int) error {
	if len(fds) == 0 {
		_, err := to.Write(b)
		return err
	}
	n, _, err := to.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && n < len(b) {
		_, err = to.Write(b[n:])
	}
	return err
}
