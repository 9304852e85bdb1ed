package convert_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
)

func discard(_ convert.Content, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }

func TestReceive(t *testing.T) {
	var b bytes.Buffer
	w := convert.NewWriter(&b)
	w.Position = func() int64 { return 3 }
	if n, err := w.Content(strings.NewReader("hello"), 5); n != 1 || err != nil {
		t.Fatalf("Content: got %d, %v; want 1 and no error", n, err)
	}
	if err := w.Done(&convert.Description{Remarks: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	whole := b.String()
	d, err := convert.Receive(strings.NewReader(whole), func(c convert.Content, r io.Reader) error {
		if c != (convert.Content{Number: 1, Size: 5, Read: 3}) {
			t.Errorf("got the header %+v, want content 1 of 5 bytes after 3 of the input", c)
		}
		return discard(c, r)
	})
	if err != nil || len(d.Remarks) != 1 {
		t.Fatalf("Receive: got %+v, %v; want one remark and no error", d, err)
	}
	for i := range len(whole) {
		if _, err := convert.Receive(strings.NewReader(whole[:i]), discard); err == nil {
			t.Errorf("a stream cut after %d of %d bytes: got no error, want one", i, len(whole))
		}
	}
	const head = "lull-convert 7\n"
	for name, s := range map[string]string{
		"more":          whole + "x",
		"another":       "lull-convert 1\n",
		"negative":      head + "content -1 0\n",
		"sign":          head + "content +1 0\nx",
		"too large":     head + "content 99999999999999 0\n",
		"unknown":       head + "file 1 0\nx",
		"a long header": head + strings.Repeat("c", 1000),
		"no position":   head + "content 1\nxdone 2\n{}",
		"bad position":  head + "content 1 x\nxdone 2\n{}",
		"unknown key":   head + "done 7\n{\"a\":1}",
		"a huge end":    head + "done 999999999999\n",
	} {
		if _, err := convert.Receive(strings.NewReader(s), discard); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("lull-convert 7\ncontent 1 1\nxdone 2\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := convert.Receive(bytes.NewReader(b), discard); (d == nil) == (err == nil) {
			t.Errorf("got %v and error %v, want exactly one of them", d, err)
		}
	})
}
