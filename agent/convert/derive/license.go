package derive

import (
	"bufio"
	"bytes"
	"path"
	"strings"

	"pault.ag/go/debian/control"
)

// license returns the license of the package: that of the annotations of an image, of its
// AppStream metadata, or of its copyright file.
func (d *deriver) license() string {
	if d.tree.Image != nil {
		return d.annotation(imageLicenses)
	}
	if d.stream != nil && d.stream.License != "" {
		return d.stream.License
	}
	n := d.tree.Resolve(path.Join("usr/share/doc", d.tree.Control["Package"], "copyright"))
	if d.tree.Control == nil || n == nil {
		return ""
	}
	return copyright(n.Kept)
}

// copyright returns the short name of the license of most files, of a copyright file in the
// machine-readable format (Debian copyright format 1.0): that of "Files: *", else the only one
// of all paragraphs. Other files have none.
func copyright(content []byte) string {
	if !bytes.HasPrefix(content, []byte("Format")) {
		return ""
	}
	r, err := control.NewParagraphReader(bufio.NewReader(bytes.NewReader(content)), nil)
	if err != nil {
		return ""
	}
	only := ""
	for {
		p, err := r.Next()
		if err != nil {
			return only
		}
		short, _, _ := strings.Cut(strings.TrimSpace(p.Values["License"]), "\n")
		short = line(short)
		switch files := strings.Fields(p.Values["Files"]); {
		case len(files) == 0 || short == "":
		case files[0] == "*":
			return short
		case only != "" && only != short:
			return ""
		default:
			only = short
		}
	}
}
