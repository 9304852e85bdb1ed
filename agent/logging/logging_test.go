package logging

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/lull/lull/agent/messages"
)

func TestAttributesBecomeFields(t *testing.T) {
	var text string
	var prio journal.Priority
	var fields map[string]string
	h := &handler{level: slog.LevelInfo, send: func(m string, p journal.Priority, f map[string]string) error {
		text, prio, fields = m, p, f
		return nil
	}}
	l := slog.New(h).With("instance", "notes")
	l.Warn("a step has failed", messages.Key, messages.StepFailed, "refresh", "7", "wait-for", 3, "error", errors.New("disk full"))
	if text != "a step has failed refresh=7 wait-for=3 error=disk full" || prio != journal.PriWarning {
		t.Fatalf("%q at %d", text, prio)
	}
	for k, want := range map[string]string{"LULL_INSTANCE": "notes", "LULL_REFRESH": "7", "LULL_WAIT_FOR": "3", "LULL_ERROR": "disk full",
		"MESSAGE_ID": string(messages.StepFailed)} {
		if fields[k] != want {
			t.Errorf("%s is %q, want %q", k, fields[k], want)
		}
	}
	text = ""
	l.Debug("nobody asked")
	if text != "" {
		t.Error("a message below the level was sent")
	}
}

func TestWithoutJournalItIsText(t *testing.T) {
	var b bytes.Buffer
	New(&b, slog.LevelInfo).Info("serving", messages.Key, messages.Serving, "root", "/r")
	if !strings.Contains(b.String(), "msg=serving root=/r") {
		t.Fatal(b.String())
	}
}
