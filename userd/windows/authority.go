package windows

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Display is an X display, as an application's environment names it.
type Display struct {
	Name      string // DISPLAY
	Authority string // XAUTHORITY; "" means .Xauthority in the home directory
}

// local reports whether the server is reached by its socket, so that the processes that it
// knows its clients by are those of this machine. A display of ssh(1) is none of these.
func (d Display) local() bool {
	host, _, _ := strings.Cut(d.Name, ":")
	return host == "" || host == "unix"
}

// dial connects to the server. The connection shows the cookie of the application's
// authority file, which may be another one than that of this process.
func (d Display) dial(ctx context.Context) (net.Conn, error) {
	host, rest, ok := strings.Cut(d.Name, ":")
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 {
		return nil, fmt.Errorf("%.100q is no name of a display", d.Name)
	}
	var c net.Conn
	if d.local() {
		c, err = new(net.Dialer).DialContext(ctx, "unix", "/tmp/.X11-unix/X"+number)
		if err != nil { // a server in another mount namespace
			var err2 error
			if c, err2 = new(net.Dialer).DialContext(ctx, "unix", "@/tmp/.X11-unix/X"+number); err2 == nil {
				err = nil
			}
		}
	} else {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(6000+n)))
	}
	if err != nil {
		return nil, err
	}
	return &withCookie{Conn: c, cookie: d.cookie(number)}, nil
}

const cookieName = "MIT-MAGIC-COOKIE-1"

// cookie returns what the authority file has for the display; nil if it has nothing.
// The file is a list of a family and four strings, with their lengths (Xau(3)).
func (d Display) cookie(number string) []byte {
	path := d.Authority
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil
		}
		path = filepath.Join(home, ".Xauthority")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for len(b) >= 2 {
		b = b[2:]
		var parts [4][]byte // address, number, name, data
		for i := range parts {
			if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
				return nil
			}
			n := 2 + int(binary.BigEndian.Uint16(b))
			parts[i], b = b[2:n], b[n:]
		}
		if (len(parts[1]) == 0 || string(parts[1]) == number) && string(parts[2]) == cookieName {
			return parts[3]
		}
	}
	return nil
}

// withCookie replaces the first message of the X protocol, which has the cookie of this
// process or none.
type withCookie struct {
	net.Conn
	cookie []byte
	once   sync.Once
}

func (c *withCookie) Write(b []byte) (n int, err error) {
	first := false
	c.once.Do(func() { first = true })
	if !first || c.cookie == nil || len(b) < 12 {
		return c.Conn.Write(b)
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }
	m := append([]byte{}, b[:12]...)
	binary.LittleEndian.PutUint16(m[6:], uint16(len(cookieName)))
	binary.LittleEndian.PutUint16(m[8:], uint16(len(c.cookie)))
	m = append(m, pad([]byte(cookieName))...)
	if _, err := c.Conn.Write(append(m, pad(c.cookie)...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
