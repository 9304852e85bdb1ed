package disk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// The protocol is NBD with fixed newstyle negotiation and simple replies; see
// doc/proto.md of github.com/NetworkBlockDevice/nbd.
const (
	nbdMagic    = 0x4e42444d41474943
	nbdOption   = 0x49484156454f5054
	nbdReply    = 0x3e889045565a9
	nbdRequest  = 0x25609513
	nbdResponse = 0x67446698

	handshakeFlags = 1 | 2            // fixed newstyle, no zeroes
	exportFlags    = 1 | 4 | 8 | 1<<6 // flags, flush, FUA, write zeroes
	optExport      = 1                // options
	optAbort       = 2                //
	optGo          = 7                //
	repAck         = 1                // replies to options
	repInfo        = 3                //
	repUnsupported = 0x80000001       //
	cmdRead        = 0                // commands
	cmdWrite       = 1                //
	cmdDisconnect  = 2                //
	cmdFlush       = 3                //
	cmdZeroes      = 6                //
	flagFUA        = 1                // of a command
	longest        = 64 << 20         // bytes of one command
)

// Server lets machines use a disk.
type Server struct {
	disk *Disk
	l    net.Listener
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// Serve serves the disk on a Unix socket until Close.
func Serve(d *Disk, socket string) (*Server, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	s := &Server{disk: d, l: l, conns: map[net.Conn]bool{}}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// Close ends all connections and returns when nothing serves any more.
func (s *Server) Close() {
	s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) accept() {
	defer s.wg.Done()
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conns == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = true
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			// A killed peer is gone; there is no one to notify.
			_ = serve(s.disk, c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			c.Close()
		}()
	}
}

// serve speaks with one peer.
func serve(d *Disk, c net.Conn) error {
	rw := bufio.NewReadWriter(bufio.NewReaderSize(c, 1<<20), bufio.NewWriterSize(c, 1<<20))
	if ready, err := negotiate(d, rw); err != nil || !ready {
		return err
	}
	var head [28]byte
	for {
		if rw.Reader.Buffered() == 0 {
			if err := rw.Flush(); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(rw, head[:]); err != nil {
			return err
		}
		if binary.BigEndian.Uint32(head[:]) != nbdRequest {
			return errors.New("not a request")
		}
		flags, cmd := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
		off, n := int64(binary.BigEndian.Uint64(head[16:])), int(binary.BigEndian.Uint32(head[24:]))
		if cmd == cmdDisconnect {
			return nil
		}
		data, err := perform(d, rw, cmd, off, n)
		if err == nil && flags&flagFUA != 0 {
			err = d.flush()
		}
		if errors.Is(err, errNoPower) {
			_, err := io.Copy(io.Discard, c) // until the peer is gone
			return err
		}
		var out [16]byte
		binary.BigEndian.PutUint32(out[:], nbdResponse)
		if err != nil {
			binary.BigEndian.PutUint32(out[4:], uint32(syscall.EINVAL))
		}
		copy(out[8:], head[8:16])
		rw.Write(out[:])
		if _, err := rw.Write(data); err != nil {
			return err
		}
	}
}

// perform executes one command; data is what the reply carries.
func perform(d *Disk, r io.Reader, cmd uint16, off int64, n int) (data []byte, err error) {
	if n > longest && cmd != cmdZeroes {
		return nil, errors.New("too long")
	}
	switch cmd {
	case cmdRead:
		data = make([]byte, n)
		if _, err := d.ReadAt(data, off); err != nil {
			return nil, err
		}
		return data, nil
	case cmdWrite:
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		return nil, d.write(off, n, b)
	case cmdFlush:
		return nil, d.flush()
	case cmdZeroes:
		return nil, d.write(off, n, nil)
	}
	return nil, errors.New("unknown command")
}

// negotiate sends the peer the properties of the disk.
func negotiate(d *Disk, rw *bufio.ReadWriter) (ready bool, err error) {
	put := func(values ...any) {
		for _, v := range values {
			err = errors.Join(err, binary.Write(rw, binary.BigEndian, v))
		}
	}
	put(uint64(nbdMagic), uint64(nbdOption), uint16(handshakeFlags))
	err = errors.Join(err, rw.Flush())
	var flags uint32
	if err := errors.Join(err, binary.Read(rw, binary.BigEndian, &flags)); err != nil {
		return false, err
	}
	for {
		var opt struct {
			Magic uint64
			Opt   uint32
			Len   uint32
		}
		if err := binary.Read(rw, binary.BigEndian, &opt); err != nil {
			return false, err
		}
		if opt.Magic != nbdOption || opt.Len > 4096 {
			return false, errors.New("not an option")
		}
		if _, err := io.CopyN(io.Discard, rw, int64(opt.Len)); err != nil {
			return false, err
		}
		switch opt.Opt {
		case optExport:
			put(uint64(d.size), uint16(exportFlags))
			return true, errors.Join(err, rw.Flush())
		case optGo:
			put(uint64(nbdReply), opt.Opt, uint32(repInfo), uint32(12), uint16(0), uint64(d.size), uint16(exportFlags))
			put(uint64(nbdReply), opt.Opt, uint32(repAck), uint32(0))
			return true, errors.Join(err, rw.Flush())
		case optAbort:
			put(uint64(nbdReply), opt.Opt, uint32(repAck), uint32(0))
			return false, errors.Join(err, rw.Flush())
		}
		put(uint64(nbdReply), opt.Opt, uint32(repUnsupported), uint32(0))
		if err := errors.Join(err, rw.Flush()); err != nil {
			return false, err
		}
	}
}
