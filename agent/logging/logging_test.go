package logging

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/printable"
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
		t.Fatalf("%q at %d; want text %q and prio %v", text, prio, "a step has failed refresh=7 wait-for=3 error=disk full", journal.PriWarning)
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
	New(&b, slog.LevelInfo).Info("serving", messages.Key, messages.Serving, "root", "/r", "error", nil, "version", "")
	if !strings.HasSuffix(b.String(), "msg=serving root=/r\n") {
		t.Fatalf("got %q, want root=/r at its end and nothing that is empty", b.String())
	}
}

// TestTextsOfOthers: whatever a process or a package is called, the journal and the
// standard error get lines of text.
func TestTextsOfOthers(t *testing.T) {
	const hostile = "a\u009b31mb\u202ec\x1b[2Jd\x9be\nf"
	var sent []string
	h := &handler{level: slog.LevelInfo, send: func(m string, _ journal.Priority, fields map[string]string) error {
		sent = append(sent, m)
		for _, v := range fields {
			sent = append(sent, v)
		}
		return nil
	}}
	var b bytes.Buffer
	for _, l := range []*slog.Logger{slog.New(h), New(&b, slog.LevelInfo)} {
		l.With("unit", hostile).WithGroup("of").Warn("runs "+hostile, "processes", []string{hostile}, "error", errors.New(hostile), slog.Group("user", "name", hostile))
	}
	sent = append(sent, strings.TrimSuffix(b.String(), "\n"))
	if len(sent) != 6 {
		t.Errorf("%d texts: %q; want 6 sent", len(sent), sent)
	}
	for _, s := range sent {
		if !strings.Contains(s, "31mb") || strings.ContainsFunc(s, printable.Hostile) {
			t.Errorf("got %q, want 31mb and no characters that control a terminal", s)
		}
	}
}

// TestLengthsOfTime: people read them, in the journal's fields as in its texts.
func TestLengthsOfTime(t *testing.T) {
	var text string
	var fields map[string]string
	h := &handler{level: slog.LevelInfo, send: func(m string, _ journal.Priority, f map[string]string) error {
		text, fields = m, f
		return nil
	}}
	slog.New(h).Info("done", "blocked", 1037442390*time.Nanosecond)
	var b bytes.Buffer
	New(&b, slog.LevelInfo).Info("done", "blocked", 90*time.Second)
	if text != "done blocked=1.0 s" || fields["LULL_BLOCKED"] != "1.0 s" || !strings.Contains(b.String(), `blocked="1 min 30 s"`) {
		t.Errorf("got text %q, fields %q and line %q; want \"done blocked=1.0 s\", LULL_BLOCKED=\"1.0 s\" and `blocked=\"1 min 30 s\"`", text, fields, b.String())
	}
}
