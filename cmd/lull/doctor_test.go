package main

import (
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
)

func TestStatesOfTheAgent(t *testing.T) {
	const nobodyAsks = `<policy context="mandatory"><deny send_interface="org.lull.Agent1.Manager"/></policy>`
	address := bustest.StartWith(t, "session", nobodyAsks)
	a := &app{bus: address, Printer: &output.Printer{}}
	defer func() {
		for _, f := range a.closers {
			f()
		}
	}()
	ask := func() (*agent, error) {
		t.Helper()
		ag, err := a.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = ag.manager.Doctor(t.Context())
		return ag, err
	}
	ag, err := ask()
	if state := agentState(t.Context(), ag, time.Second, err); err == nil || state != agentNotRunning {
		t.Errorf("without an agent: got state %s and error %v, want %s and an error", state, err, agentNotRunning)
	}
	server, err := bus.Serve(t.Context(), address, false)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := server.RequestName(bus.AgentName); err != nil {
		t.Fatal(err)
	}
	ag, err = ask()
	if state := agentState(t.Context(), ag, time.Second, err); state != agentRefuses {
		t.Errorf("where the bus lets nobody ask: %s, want %v, %v", state, agentRefuses, err)
	}
	late := errkind.New(errkind.Unavailable, "cannot reach the agent: it does not answer")
	if state := agentState(t.Context(), ag, time.Minute, late); state != agentSlow {
		t.Errorf("where it answers a ping only: %s, want %v", state, agentSlow)
	}
	if state := agentState(t.Context(), ag, time.Minute, nil); state != agentSlow {
		t.Errorf("after a minute: %s, want %v", state, agentSlow)
	}
	if state := agentState(t.Context(), ag, time.Millisecond, nil); state != agentAnswers {
		t.Errorf("after a millisecond: %s, want %v", state, agentAnswers)
	}
	if state := agentState(t.Context(), nil, 0, late); state != agentNoBus {
		t.Errorf("without a bus: %s, want %v", state, agentNoBus)
	}
}
