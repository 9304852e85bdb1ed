package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/runname"
	"github.com/lull/lull/agent/lib/scopes"
	"github.com/lull/lull/e2e/rig"
)

// playLaunch starts the same program plainly, as an installed application by
// its wrapper, by the least program that has a scope made for itself, and by
// systemd-run, each until it has ended. The wrapper is started as from a terminal, where
// the launcher has a scope made, and as GLib starts it for a desktop, which makes one itself.
func playLaunch(tb rig.TB) results {
	const name = "org.lull.launch"
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{Rootless: true})
	s.publish(name, "1", program, "")
	s.install(name)
	plain := s.starter(program)
	ours := s.starter(s.wrapper(name))
	command := s.starter("lull", "--user", "run", name)
	theirs := s.starter("systemd-run", "--user", "--scope", "--quiet", "--collect", program)
	got := inTurns(10, 200, plain, ours, theirs, command, s.asked(), s.starter(s.least("scope", program)...),
		s.starter(asDesktop(program)...), s.starter(asDesktop(s.wrapper(name))...), s.starter(s.least(goScope, program)...))
	launched, peer, least := minus(got[1], got[0]), minus(got[2], got[0]), minus(got[5], got[0])
	return results{"launch": samples{
		Ours:   minus(got[7], got[6]),
		Theirs: least,
		Notes: []string{
			"with GIO_LAUNCHED_DESKTOP_FILE_PID, as GLib sets it: the launcher asks systemd for nothing, and GNOME makes the scope meanwhile",
			fmt.Sprintf("tracker %v, systemd %s", s.api.Property("", "Manager.Tracker"), firstLine("systemctl", "--version")),
		},
	}, "launch-scope": samples{
		Ours:   launched,
		Theirs: least,
		Notes: []string{
			fmt.Sprintf("plain exec %.2f ms; by `lull run` instead of the wrapper %.2f ms more", median(got[0]), median(minus(got[3], got[0]))),
			fmt.Sprintf("systemd's part, from the request for a scope to the end of its job: %.2f ms", median(got[4])),
			fmt.Sprintf("the least, written in Go: %.2f ms", median(minus(got[8], got[0]))),
			"the least: it sends the finished request, waits for the end of the job and executes",
			fmt.Sprintf("systemd-run --user --scope: %.2f ms; a launch takes %.2f of that", median(peer), median(launched)/median(peer)),
		},
	}}
}

// asDesktop is the command for a program with the environment in which GLib starts it for
// a desktop. The shell is a part of what is measured.
func asDesktop(program string) []string {
	return []string{"/bin/sh", "-c", "GIO_LAUNCHED_DESKTOP_FILE_PID=$$ exec " + program}
}

// least is the command for the least that a launch into a scope of its own takes;
// see programs/scope.c, and goScope.
func (s *stage) least(by, program string) []string {
	const pid, unique = 0xfefefefe, "UNIQUE!!"
	request, err := scopes.Request(s.User.UID, scopes.Scope{Name: "app-lull-least-" + unique + ".scope",
		Description: "Least (least)", Slice: "app.slice", PIDs: []uint32{pid}})
	if err != nil {
		s.Fatalf("%v", err)
	}
	path := filepath.Join(tempDir(s), "request")
	if err := os.WriteFile(path, request, 0o644); err != nil {
		s.Fatalf("%v", err)
	}
	return []string{filepath.Join(programs(s), by), path, strconv.Itoa(bytes.Index(request, []byte{0xfe, 0xfe, 0xfe, 0xfe})),
		strconv.Itoa(bytes.Index(request, []byte(unique))), program}
}

// goScope is the same in Go; see programs/scope.
const goScope = "scope-go"

// asked returns what measures how long systemd takes for the scope alone, in the
// same way as the launcher asks for it.
func (s *stage) asked() func() float64 {
	var pkg digest.Digest
	return func() float64 {
		app := s.open(filepath.Join(programs(s), "closing"))
		m, err := scopes.User(s.Context())
		if err != nil {
			s.Fatalf("%v", err)
		}
		defer m.Close()
		began := time.Now()
		err = m.Start(s.Context(), scopes.Scope{Name: runname.Scope("org.lull.asked", pkg, runname.Random()),
			Slice: "app.slice", PIDs: []uint32{uint32(app.cmd.Process.Pid)}})
		took := time.Since(began)
		if err != nil {
			s.Fatalf("%v", err)
		}
		app.close()
		return ms(took)
	}
}

// besideLaunch measures the same launch where the agent puts it into a group of
// the v1 freezer hierarchy.
func besideLaunch(tb rig.TB, got results) {
	const name = "org.lull.launch"
	myTurn(tb)
	program := filepath.Join(programs(tb), "empty")
	s := setStage(tb, rig.Options{Tracker: "freezer"})
	s.publish(name, "1", program, "")
	s.install(name)
	took := inTurns(10, 100, s.starter(program), s.starter(s.wrapper(name)))
	row := got["launch-scope"]
	row.Notes = append(row.Notes, fmt.Sprintf("with the freezer tracker, outside the container: %.2f ms", median(minus(took[1], took[0]))))
	got["launch-scope"] = row
}

// starter returns what measures one start of a program as the user, in
// milliseconds until it has ended.
func (s *stage) starter(argv ...string) func() float64 { return s.starterOf(s.User, argv...) }

func (s *stage) starterOf(who *rig.Actor, argv ...string) func() float64 {
	cmd := who.Command(argv[0], argv[1:]...)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		s.Fatalf("%v", err)
	}
	s.Cleanup(func() { null.Close() })
	attr := &os.ProcAttr{Dir: cmd.Dir, Env: cmd.Env, Files: []*os.File{null, null, os.Stderr}}
	return func() float64 {
		began := time.Now()
		p, err := os.StartProcess(cmd.Path, cmd.Args, attr)
		if err != nil {
			s.Fatalf("cannot start %s: %v", cmd.Path, err)
		}
		st, err := p.Wait()
		took := time.Since(began)
		if err != nil || !st.Success() {
			s.Fatalf("%s: %v %v", cmd.Path, st, err)
		}
		return ms(took)
	}
}
