package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/lull/lull/e2e/rig"
)

// playLayout starts the same program plainly, and as an installed application without and with
// a layout of two paths that the host lacks. A desktop starts the applications.
func playLayout(tb rig.TB) results {
	const name, with = "org.lull.plain", "org.lull.layout"
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{Rootless: true})
	s.publish(name, "1", program, "")
	s.publish(with, "1", program, "layout: {/opt/LullBench: bin, /usr/share/lull-bench: bin}\n")
	s.install(name, with)
	got := inTurns(10, 200, s.starter(asDesktop(program)...), s.starter(asDesktop(s.wrapper(name))...), s.starter(asDesktop(s.wrapper(with))...))
	return results{"launch-layout": samples{
		Ours: minus(got[2], got[1]),
		Notes: []string{
			fmt.Sprintf("the whole launch, beyond plain exec: %.2f ms without a layout, %.2f ms with it", median(minus(got[1], got[0])), median(minus(got[2], got[0]))),
		},
	}}
}

// besideLayout starts it by bwrap with two binds, and as a flatpak whose runtime has no
// other file.
func besideLayout(tb rig.TB, got results) {
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{Tracker: "subtree"})
	bin := filepath.Dir(program)
	took := inTurns(10, 100, s.starter(program), s.starter(s.flatpak(program)...),
		s.starter("bwrap", "--dev-bind", "/", "/", "--tmpfs", "/opt", "--ro-bind", bin, "/opt/LullBench", "--ro-bind", bin, "/mnt", program))
	row := got["launch-layout"]
	row.Notes = append(row.Notes,
		fmt.Sprintf("bwrap with two binds, beyond plain exec: %.2f ms (%s)", median(minus(took[2], took[0])), firstLine("bwrap", "--version")),
		fmt.Sprintf("flatpak run of the same program, beyond plain exec: %.2f ms (%s)", median(minus(took[1], took[0])), firstLine("flatpak", "--version")))
	got["launch-layout"] = row
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
