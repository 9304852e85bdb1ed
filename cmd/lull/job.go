package main

import (
	"context"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// jobText has the texts for a kind of job.
type jobText struct {
	verb  string // as in "cannot VERB: interrupted"
	label string // of the progress
	step  string // of the progress, see stepWords
	// goesOn is the hint after an interruption. "" means that the interruption cancels
	// the job, and cancelled is the hint.
	goesOn, cancelled string
}

var (
	verifyText  = jobText{verb: output.Mark("verify the store"), label: output.Mark("store"), step: "verify", cancelled: output.Mark("the check is cancelled; nothing was changed")}
	repairText  = jobText{verb: output.Mark("repair the store"), label: output.Mark("store"), step: "verify", goesOn: output.Mark("the repair goes on; `lull verify` waits for its end and checks again")}
	collectText = jobText{verb: output.Mark("collect"), label: output.Mark("store"), step: "collect", goesOn: output.Mark("the collection goes on; `lull status` shows when it has ended")}
	commitText  = jobText{verb: output.Mark("commit the system"), label: output.Mark("system"), step: "health", goesOn: output.Mark("the commit goes on; `lull system status` shows the result")}
)

// resolveText returns the texts for a package.
func resolveText(name string) jobText {
	return jobText{verb: output.T("fetch %s", name), label: name, step: "fetch", cancelled: output.T("the download is cancelled; it goes on from there when it is started again")}
}

// jobCalls are two calls for the same work of the agent.
type jobCalls struct {
	start func(context.Context) (dbus.ObjectPath, error)
	// whole returns when the work has ended. It is for an agent without jobs. Such an
	// agent may run for a moment while lull is upgraded, or for longer if its restart has
	// failed.
	whole func(context.Context) (bus.JobProperties, error)
}

// followJob starts a job and follows it to its end, with bars on a terminal. It subscribes
// before it starts the job, so that it misses no signal. A failed job is an error; the
// properties are valid then too.
func (a *app) followJob(ctx context.Context, ag *agent, text jobText, calls jobCalls) (p bus.JobProperties, err error) {
	bars := a.terminalProgress()
	defer bars.Close()
	show := bars.Update
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sub, err := bus.Subscribe(asking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return p, err
	}
	defer sub.Close()
	call, called := a.patient(ctx)
	path, err := calls.start(call)
	called()
	older := bus.IsUnknown(err)
	if older {
		show(bus.AgentPath, bus.RefreshProperties{Instance: output.Marked(text.label), State: "preparing", Step: text.step})
		p, err = calls.whole(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return p, output.Error(errkind.Interrupted, "cannot %s: interrupted", output.Marked(text.verb)).WithHint("the agent may have begun with it already")
	}
	if err != nil || older {
		return p, err
	}
	job := bus.NewJobProxy(ag.conn, path)
	read := func() error {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		p, err = job.Properties(asking)
		return err
	}
	for err = read(); err == nil && p.State == "running"; {
		show(path, bus.RefreshProperties{Instance: output.Marked(text.label), State: "preparing", Step: text.step, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal,
			BytesToFetch: p.BytesToFetch, BytesToWrite: p.BytesToWrite})
		select {
		case <-ctx.Done():
			return p, text.interrupted(ctx, job)
		case sig, ok := <-sub.C:
			if !ok {
				return p, output.Error(errkind.Unavailable, "cannot %s: the agent has left the bus", output.Marked(text.verb)).
					WithHint("the agent cancels its jobs when it ends; see `%s`", a.statusCommand())
			}
			if c, ok := bus.ParseChanged(sig); !ok || c.Path != path || c.Interface != bus.JobInterface {
				continue
			}
			err = read() // the signal may be older than the properties
		}
	}
	switch {
	case ctx.Err() != nil:
		return p, text.interrupted(ctx, job)
	case err != nil:
		return p, err
	}
	return p, jobFailure(p)
}

// terminalProgress shows progress on a terminal alone, and to programs.
func (a *app) terminalProgress() output.Progress {
	if a.events || output.IsTerminal(a.Stderr) {
		return a.Progress()
	}
	return output.NoProgress()
}

// interrupted cancels the job, unless it goes on after an interruption, and returns the
// error.
func (t jobText) interrupted(ctx context.Context, job bus.JobProxy) error {
	err := output.Error(errkind.Interrupted, "cannot %s: interrupted", output.Marked(t.verb))
	if t.goesOn != "" {
		return err.WithHint("%s", output.Marked(t.goesOn))
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
	defer cancel()
	if cerr := job.Cancel(asking); cerr != nil && !errkind.Is(cerr, errkind.NotFound) {
		return output.Error(errkind.Interrupted, "cannot %s: interrupted; it goes on in the agent: %w", output.Marked(t.verb), cerr)
	}
	return err.WithHint("%s", output.Marked(t.cancelled))
}

// jobFailure returns the error of a job that has ended, or nil.
func jobFailure(p bus.JobProperties) error {
	if p.State == "done" {
		return nil
	}
	kind := errkind.Failed
	if name, ok := cutPrefix(p.ErrorName, errkind.Prefix); ok {
		kind = errkind.Kind(name)
	}
	if p.ErrorText == "" {
		return output.Failed(kind, output.T("cannot finish the job: the agent gives no reason"), p.ErrorHint, nil)
	}
	return &errkind.Error{Kind: kind, Text: p.ErrorText, Hint: p.ErrorHint}
}
