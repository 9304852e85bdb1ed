package unpack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Input is a file to read. It must not change during the read.
type Input interface {
	io.ReaderAt
	io.Reader
}

// Add unpacks one input into the tree. The content determines the format, not the name.
func (t *Tree) Add(name string, in Input, size int64) error {
	err := t.unpack(in, size)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (t *Tree) unpack(in Input, size int64) (err error) {
	// A panic in a parser of a library means a damaged or malicious file.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	head := make([]byte, 512)
	n, err := in.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	head = head[:n]
	whole := io.NewSectionReader(in, 0, size)
	switch {
	case bytes.HasPrefix(head, []byte("!<arch>\n")):
		return t.debian(in)
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return t.appImage(in, size)
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return t.zip(whole, size)
	}
	ext := compression(head)
	if ext == "" && (len(head) < 262 || string(head[257:262]) != "ustar") {
		return errors.New("the format is unknown: want a .deb, a tar archive, a zip file, an AppImage or a container image")
	}
	if a := openArchive(whole, ext, t.limits); a != nil {
		return t.image(a)
	}
	return t.tarball(io.NewSectionReader(in, 0, size), ext)
}

// compression returns the format of a compressed file, by its first bytes.
func compression(head []byte) string {
	for magic, ext := range map[string]string{"\x1f\x8b": ".gz", "\xfd7zXZ\x00": ".xz", "\x28\xb5\x2f\xfd": ".zst", "BZh": ".bz2"} {
		if strings.HasPrefix(string(head), magic) {
			return ext
		}
	}
	return ""
}
