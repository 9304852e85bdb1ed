package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull/lull/e2e/rig"
)

// playLayout starts the same program plainly, as an installed application without and with a
// layout of two paths that the host lacks, by bwrap with two binds, and as a flatpak whose
// runtime has no other file. Desktops start the applications.
func playLayout(tb rig.TB) results {
	const name, with = "org.lull.plain", "org.lull.layout"
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{Tracker: "subtree"})
	s.publish(name, "1", program, "")
	s.publish(with, "1", program, "layout: {/opt/LullBench: bin, /usr/share/lull-bench: bin}\n")
	s.install(name, with)
	bin := filepath.Dir(program)
	got := inTurns(10, 200, s.starter(program), s.starter(asDesktop(program)...), s.starter(asDesktop(s.wrapper(name))...), s.starter(asDesktop(s.wrapper(with))...),
		s.starter("bwrap", "--dev-bind", "/", "/", "--tmpfs", "/opt", "--ro-bind", bin, "/opt/LullBench", "--ro-bind", bin, "/mnt", program),
		s.starter(s.flatpak(program)...))
	return results{"launch-layout": samples{
		Ours: minus(got[3], got[2]),
		Notes: []string{
			fmt.Sprintf("the whole launch, beyond plain exec: %.2f ms without a layout, %.2f ms with it", median(minus(got[2], got[1])), median(minus(got[3], got[1]))),
			fmt.Sprintf("bwrap with two binds, beyond plain exec: %.2f ms (%s)", median(minus(got[4], got[0])), firstLine("bwrap", "--version")),
			fmt.Sprintf("flatpak run of the same program, beyond plain exec: %.2f ms (%s)", median(minus(got[5], got[0])), firstLine("flatpak", "--version")),
		},
	}}
}

// flatpak installs the program as a flatpak of the user's, and returns the command that runs it.
func (s *stage) flatpak(program string) []string {
	const app = "org.lull.Tiny"
	dir := filepath.Join(s.User.Home, "flatpak")
	for _, d := range []string{"runtime/usr/bin", "runtime/files", "app/files/bin", "app/export"} {
		s.User.Must("mkdir", "-p", filepath.Join(dir, d))
	}
	for path, text := range flatpakMetadata(app, "empty") {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			s.Fatalf("%v", err)
		}
	}
	s.User.Must("cp", program, filepath.Join(dir, "app/files/bin/empty"))
	s.User.Must("flatpak", "build-export", "--runtime", "--disable-sandbox", filepath.Join(dir, "repo"), filepath.Join(dir, "runtime"), "stable")
	s.User.Must("flatpak", "build-export", "--disable-sandbox", filepath.Join(dir, "repo"), filepath.Join(dir, "app"), "stable")
	s.User.Must("flatpak", "--user", "remote-add", "--no-gpg-verify", "bench", filepath.Join(dir, "repo"))
	s.User.Must("flatpak", "--user", "install", "--noninteractive", "bench", app)
	return []string{"flatpak", "--user", "run", app}
}

// flatpakRuntime is the runtime of flatpaks here. It has no file.
const flatpakRuntime = "org.lull.Runtime"

// flatpakMetadata returns the descriptions of a flatpak and its runtime, by path.
func flatpakMetadata(app, command string) map[string]string {
	ref := flatpakRuntime + "/" + firstLine("flatpak", "--default-arch") + "/stable"
	return map[string]string{
		"runtime/metadata": "[Runtime]\nname=" + flatpakRuntime + "\nruntime=" + ref + "\nsdk=" + ref + "\n",
		"app/metadata":     "[Application]\nname=" + app + "\nruntime=" + ref + "\nsdk=" + ref + "\ncommand=" + command + "\n",
	}
}
