package unpack

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"pault.ag/go/debian/control"
	"pault.ag/go/debian/deb"
)

// maxControl bounds the control archive of a Debian package, in bytes. It limits its scripts
// and lists of files.
const maxControl = 32 << 20

// maintainerScripts are the scripts of deb-postinst(5) and its siblings.
var maintainerScripts = []string{"preinst", "postinst", "prerm", "postrm", "config"}

// effects are commands of maintainer scripts, with their effects.
var effects = []struct{ command, effect string }{
	{"adduser", "add a user"}, {"useradd", "add a user"}, {"addgroup", "add a group"}, {"groupadd", "add a group"},
	{"update-alternatives", "register an alternative"}, {"dpkg-divert", "divert a file of another package"},
	{"setcap", "give file capabilities"}, {"chmod u+s", "make a file set-user-id"}, {"chmod 47", "make a file set-user-id"},
	{"dpkg-statoverride", "change owners or modes"}, {"systemctl", "start or enable a service"}, {"deb-systemd-invoke", "start or enable a service"},
	{"apt-key", "trust a signing key"}, {"/etc/apt/", "configure a package source"}, {"debconf", "ask questions"}, {"db_input", "ask questions"},
	{"ldconfig", "register libraries"}, {"update-rc.d", "enable a service"},
}

// debian reads a Debian package (deb(5)).
func (t *Tree) debian(in io.ReaderAt) error {
	archive, err := deb.LoadAr(in)
	if err != nil {
		return err
	}
	members := 0
	var described bool
	for {
		m, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if members++; members > 64 || m.Size < 0 {
			return errors.New("it is no Debian package: it has too many parts")
		}
		switch {
		case strings.HasPrefix(m.Name, "control.tar"):
			if err := t.control(m); err != nil {
				return err
			}
			described = true
		case strings.HasPrefix(m.Name, "data.tar"):
			if !described {
				return errors.New("it is no Debian package: no control archive before its files")
			}
			return t.tarball(m.Data, extension(m.Name))
		}
	}
	return errors.New("it is no Debian package: it has no files")
}

func extension(name string) string {
	if ext := filepath.Ext(name); ext != ".tar" {
		return ext
	}
	return ""
}

// control reads the control archive: the control file, and the maintainer scripts,
// which never run.
func (t *Tree) control(m *deb.ArEntry) error {
	plain, err := deb.DecompressorFor(extension(m.Name))(m.Data)
	if err != nil {
		return err
	}
	defer plain.Close()
	r := tar.NewReader(io.LimitReader(plain, maxControl))
	described, scripts := false, len(t.Scripts)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("its control archive: %w", err)
		}
		name := path.Clean(h.Name)
		if name != "control" && !slices.Contains(maintainerScripts, name) || h.Size > maxKept {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if name != "control" {
			t.script(name, string(content))
			continue
		}
		if err := t.fields(content); err != nil {
			return fmt.Errorf("its control file: %w", err)
		}
		described = true
	}
	if !described {
		return errors.New("it has no control file")
	}
	if name := t.packages[len(t.packages)-1]; name != t.Control["Package"] {
		for i := range t.Scripts[scripts:] {
			t.Scripts[scripts+i] += " of " + name
		}
	}
	return nil
}

// fields reads the control file. The first package describes the whole.
func (t *Tree) fields(content []byte) error {
	r, err := control.NewParagraphReader(bufio.NewReader(strings.NewReader(string(content))), nil)
	if err != nil {
		return err
	}
	p, err := r.Next()
	if err != nil {
		return err
	}
	for _, key := range []string{"Pre-Depends", "Depends"} {
		for need := range strings.SplitSeq(p.Values[key], ",") {
			if need = strings.Join(strings.Fields(need), " "); need != "" && !slices.Contains(t.Needs, need) {
				t.Needs = append(t.Needs, need)
			}
		}
	}
	if t.Control == nil {
		t.Control = p.Values
	}
	for other := range strings.SplitSeq(p.Values["Provides"], ",") {
		t.packages = append(t.packages, called(other))
	}
	t.packages = append(t.packages, p.Values["Package"])
	return nil
}

// called returns the name in a relation between packages, as libc6 of "libc6:any (>= 2.34)".
func called(relation string) string {
	name, _, _ := strings.Cut(strings.TrimSpace(relation), " ")
	name, _, _ = strings.Cut(name, "(")
	name, _, _ = strings.Cut(name, ":")
	return name
}

// Missing lists the dependencies of the Debian packages that none of them is or provides.
// Versions are not compared.
func (t *Tree) Missing() (list []string) {
	for _, need := range t.Needs {
		if !slices.ContainsFunc(strings.Split(need, "|"), func(r string) bool { return slices.Contains(t.packages, called(r)) }) {
			list = append(list, need)
		}
	}
	return list
}

// script records a maintainer script and its omitted effects.
func (t *Tree) script(name, content string) {
	var would []string
	for _, e := range effects {
		if strings.Contains(content, e.command) && !slices.Contains(would, e.effect) {
			would = append(would, e.effect)
		}
	}
	text := name
	if len(would) > 0 {
		text += " (it would " + strings.Join(would, ", ") + ")"
	}
	t.Scripts = append(t.Scripts, text)
}
