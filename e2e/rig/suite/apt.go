package suite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// keyring has the keys of all suites.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// run runs a command to its end and returns what it has printed. It is killed
// when ctx is done, or with the process that has started it.
func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	if err != nil {
		text := strings.TrimSpace(out.String())
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, text[max(0, len(text)-3000):])
	}
	return out.String(), nil
}

// Mirror returns the address of the suite's packages in the host's apt, or ""
// if apt does not report it; debootstrap then uses its default.
func (s Suite) Mirror(ctx context.Context) (string, error) {
	out, err := run(ctx, exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"))
	if err != nil {
		return "", fmt.Errorf("cannot ask apt for its mirror: %w", err)
	}
	// Updates and security have releases of names such as bookworm-security.
	_, kind, _ := strings.Cut(string(s), "-")
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 3 || f[1] != "main" || strings.Contains(f[0], "/") {
			continue
		}
		if _, theirs, _ := strings.Cut(f[0], "-"); theirs == kind {
			return f[2], nil
		}
	}
	return "", nil
}

// apt makes a command of the host's apt that sees the suite's packages alone, of
// one architecture, and has its state in dir.
func (s Suite) apt(ctx context.Context, dir, arch string, argv ...string) *exec.Cmd {
	args := []string{"-qq",
		"-o", "Dir::State=" + dir, "-o", "Dir::Cache=" + dir, "-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Etc::SourceList=" + filepath.Join(dir, "sources.list"), "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures::=" + arch, "-o", "APT::Sandbox::User=root",
	}
	cmd := exec.CommandContext(ctx, argv[0], append(args, argv[1:]...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

// Package downloads a package of the suite, unpacks it into dir, and returns its
// name: see Download.
func (s Suite) Package(ctx context.Context, dir, arch, name, prefix string) (string, error) {
	state := dir + ".apt"
	defer os.RemoveAll(state)
	name, deb, err := s.Download(ctx, state, arch, name, prefix)
	if err != nil {
		return "", err
	}
	_, err = run(ctx, exec.CommandContext(ctx, "dpkg", "-x", deb, dir))
	return name, err
}

// Download downloads a package of the suite into a new directory, and returns its
// name and file. A name may have a version, as for apt-get download. Of a package
// that is empty and depends on the current one of a kind, such as
// linux-image-cloud-amd64, it is the one whose name begins with prefix.
func (s Suite) Download(ctx context.Context, dir, arch, name, prefix string) (found, deb string, err error) {
	mirror, err := s.Mirror(ctx)
	if err == nil && mirror == "" {
		err = fmt.Errorf("the host's apt has no mirror of %s", s)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "sources.list"), fmt.Appendf(nil, "deb [signed-by=%s] %s %s main\n", keyring, mirror, s), 0o644)
	}
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if _, err := run(ctx, s.apt(ctx, dir, arch, "apt-get", "update")); err != nil {
		return "", "", err
	}
	if prefix != "" {
		out, err := run(ctx, s.apt(ctx, dir, arch, "apt-cache", "depends", name))
		if err != nil {
			return "", "", err
		}
		_, after, ok := strings.Cut(out, "Depends: "+prefix)
		if !ok {
			return "", "", fmt.Errorf("%s depends on no %s…:\n%s", name, prefix, out)
		}
		line, _, _ := strings.Cut(after, "\n")
		name = prefix + strings.TrimSpace(line)
	}
	download := s.apt(ctx, dir, arch, "apt-get", "download", name)
	download.Dir = dir
	if _, err := run(ctx, download); err != nil {
		return "", "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", "", fmt.Errorf("apt-get download of %s has left %q", name, debs)
	}
	return name, debs[0], nil
}
