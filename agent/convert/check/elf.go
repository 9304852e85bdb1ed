package check

import (
	"bytes"
	"debug/elf"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const elfMagic = "\x7fELF"

// binary is the relevant part of a program or library.
type binary struct {
	machine elf.Machine
	interp  string   // "" for libraries
	needed  []string // DT_NEEDED (elf(5))
	ways    []string // DT_RUNPATH, or else DT_RPATH
}

// parseELF returns nil if the content is damaged.
func parseELF(content []byte) (b *binary) {
	defer func() {
		if recover() != nil { // debug/elf has no guarantee for hostile files
			b = nil
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil
	}
	b = &binary{machine: f.Machine}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			text := make([]byte, p.Filesz)
			if _, err := p.ReadAt(text, 0); err != nil {
				return nil
			}
			b.interp = strings.TrimRight(string(text), "\x00")
		}
	}
	if b.needed, err = f.DynString(elf.DT_NEEDED); err != nil {
		b.needed = nil // a program without a dynamic section
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		if list, err := f.DynString(tag); err == nil && len(list) > 0 {
			for _, l := range list {
				b.ways = append(b.ways, strings.Split(l, ":")...)
			}
			break
		}
	}
	return b
}

// machines are the architectures whose programs run here.
var machines = map[string][]elf.Machine{
	"amd64": {elf.EM_X86_64, elf.EM_386}, "386": {elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM}, "arm": {elf.EM_ARM},
	"riscv64": {elf.EM_RISCV}, "ppc64le": {elf.EM_PPC64}, "s390x": {elf.EM_S390}, "loong64": {elf.EM_LOONGARCH},
}

// inside returns the directory of the package that a way of a file leads to (ld.so(8)).
func inside(p, way string) (dir string, ok bool) {
	way = strings.ReplaceAll(way, "${ORIGIN}", "$ORIGIN")
	rest, relative := strings.CutPrefix(way, "$ORIGIN")
	if !relative {
		return "", false
	}
	dir = path.Join(path.Dir(p), rest)
	return dir, dir != ".." && !strings.HasPrefix(dir, "../")
}

// elf checks a program or library.
func (c *checker) elf(p string, b *binary) {
	if want := machines[runtime.GOARCH]; want != nil && !slices.Contains(want, b.machine) {
		c.find(p, 0, "it is for another machine: %s", strings.TrimPrefix(b.machine.String(), "EM_"))
		return
	}
	if b.interp != "" && !c.onHost(b.interp) {
		c.find(p, 0, "its loader %s is not on this machine", b.interp)
	}
	for _, lib := range b.needed {
		if c.hasLibrary(p, lib, b) {
			continue
		}
		if at := c.names[lib]; at != "" {
			c.find(p, 0, "it needs %s, which is in the package as %s, where it is not looked for", lib, at)
		} else {
			c.find(p, 0, "it needs %s, which is neither in the package nor on this machine", lib)
		}
	}
}

// hasLibrary reports whether the loader finds a library of a file. Libraries are loaded into
// programs, whose ways apply to them, too.
func (c *checker) hasLibrary(p, lib string, b *binary) bool {
	if strings.Contains(lib, "/") {
		return c.onHost(lib)
	}
	if slices.ContainsFunc(c.listed("LD_LIBRARY_PATH"), func(dir string) bool { return c.has(path.Join(dir, lib)) }) {
		return true
	}
	for _, way := range b.ways {
		if in, ok := inside(p, way); ok && c.has(path.Join(in, lib)) || strings.HasPrefix(way, "/") && c.onHost(path.Join(way, lib)) {
			return true
		}
	}
	if b.interp == "" {
		for dir := range c.ways {
			if c.has(path.Join(dir, lib)) {
				return true
			}
		}
		if c.has(path.Join(path.Dir(p), lib)) && len(c.ways) > 0 {
			return true
		}
	}
	if c.loose && c.names[lib] != "" {
		return true
	}
	return c.host == "" || slices.ContainsFunc(c.libs, func(dir string) bool { return c.onHost(path.Join(dir, lib)) })
}

func (c *checker) has(p string) bool { _, ok := c.files[p]; return ok }

// hostLibraries returns the directories that the loader of the host searches: those of
// /etc/ld.so.conf (ldconfig(8)) and the built-in ones.
func hostLibraries(host string) []string {
	dirs := []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib32", "/usr/lib32"}
	files, _ := filepath.Glob(filepath.Join(host, "etc/ld.so.conf.d/*.conf"))
	for _, f := range append(files, filepath.Join(host, "etc/ld.so.conf")) {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
				dirs = append(dirs, line)
			}
		}
	}
	return dirs
}
