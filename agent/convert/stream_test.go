package convert_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
)

func discard(_ convert.Content, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }

func unseen(int64) {}

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
	var read int64
	d, err := convert.Receive(strings.NewReader(whole), func(n int64) { read = n }, func(c convert.Content, r io.Reader) error {
		if c != (convert.Content{Number: 1, Size: 5}) || read != 3 {
			t.Errorf("got the header %+v after %d bytes of the input, want content 1 of 5 bytes after 3", c, read)
		}
		return discard(c, r)
	})
	if err != nil || len(d.Remarks) != 1 {
		t.Fatalf("Receive: got %+v, %v; want one remark and no error", d, err)
	}
	for i := range len(whole) {
		if _, err := convert.Receive(strings.NewReader(whole[:i]), unseen, discard); err == nil {
			t.Errorf("a stream cut after %d of %d bytes: got no error, want one", i, len(whole))
		}
	}
	const head = "lull-convert 8\n"
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
		if _, err := convert.Receive(strings.NewReader(s), unseen, discard); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

// TestLargeContent: the progress within one content is reported, and the content is the same.
func TestLargeContent(t *testing.T) {
	const part = 4 << 20
	for _, size := range []int{part, part + 1, 3*part - 1, 3 * part} {
		want := bytes.Repeat([]byte("lull read 1\n"), size/12+1)[:size]
		var b bytes.Buffer
		w := convert.NewWriter(&b)
		from := bytes.NewReader(want)
		w.Position = func() int64 { return int64(size - from.Len()) }
		for range 2 {
			from.Reset(want)
			if _, err := w.Content(from, int64(size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Done(&convert.Description{}); err != nil {
			t.Fatal(err)
		}
		whole := b.Bytes()
		var read, wantRead []int64
		for range 2 {
			for at := 0; at < size; at += part {
				wantRead = append(wantRead, int64(at))
			}
		}
		_, err := convert.Receive(bytes.NewReader(whole), func(n int64) { read = append(read, n) }, func(c convert.Content, r io.Reader) error {
			got, err := io.ReadAll(r)
			if !bytes.Equal(got, want) {
				t.Errorf("content %d of %d bytes: got %d other bytes, want the same", c.Number, size, len(got))
			}
			return err
		})
		if err != nil || !slices.Equal(read, wantRead) {
			t.Errorf("two contents of %d bytes: got progress %v, %v; want %v and no error", size, read, err, wantRead)
		}
		for name, broken := range map[string][]byte{
			"cut at the position":    whole[:bytes.IndexByte(whole, '\n')+1+len("content 4194305 0\n")+part],
			"no position in between": bytes.Replace(whole, []byte("read 4194304\n"), []byte("seen 4194304\n"), 1),
			"a negative position":    bytes.Replace(whole, []byte("read 4194304\n"), []byte("read -194304\n"), 1),
		} {
			if size == part {
				break // it has no position
			}
			if _, err := convert.Receive(bytes.NewReader(broken), unseen, discard); err == nil {
				t.Errorf("%d bytes, %s: got no error, want one", size, name)
			}
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("lull-convert 8\ncontent 1 1\nxdone 2\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := convert.Receive(bytes.NewReader(b), unseen, discard); (d == nil) == (err == nil) {
			t.Errorf("got %v and error %v, want exactly one of them", d, err)
		}
	})
}
