package sessionjobs

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/lull/lull/userd/queue"
)

// Runner do the jobs. They may be used from several goroutines, one job of a lane
// of an instance at a time, and block until the job is done.
type Runner interface {
	Do(ctx context.Context, j Job) error
}

// Worker carries orders out.
type Worker struct {
	hands  map[Lane]Runner
	done   func(Order, error)
	log    *slog.Logger
	orders *queue.Box[Order]
}

// New makes a worker; Run makes it work. It calls done, which must not block, with
// the end of each order.
func New(services, data Runner, done func(Order, error), log *slog.Logger) *Worker {
	return &Worker{hands: map[Lane]Runner{ServicesLane: services, DataLane: data}, done: done, log: log, orders: queue.New[Order]()}
}

// Submit has an order carried out. It does not block.
func (w *Worker) Submit(o Order) { w.orders.Put(o) }

var errNewer = errors.New("the agent has sent a newer order")

// Run works until the context ends. Jobs under way are then cancelled: data is
// copied at the next launch, and services go on as they are.
func (w *Worker) Run(ctx context.Context) {
	type ended struct {
		instance string
		Ended
	}
	ends := make(chan ended)
	machines := map[string]*Machine{}
	cancels := map[string]*[lanes]context.CancelCauseFunc{}
	var jobs sync.WaitGroup
	defer jobs.Wait()
	step := func(instance string, ev Event) {
		m := machines[instance]
		if m == nil {
			m = &Machine{}
			machines[instance], cancels[instance] = m, &[lanes]context.CancelCauseFunc{}
		}
		for _, effect := range m.Step(ev) {
			switch f := effect.(type) {
			case Run:
				at := f.Do.lane()
				jobCtx, cancel := context.WithCancelCause(ctx)
				cancels[instance][at] = cancel
				jobs.Go(func() {
					err := w.do(jobCtx, at, f.Job)
					cancel(nil)
					select {
					case ends <- ended{instance, Ended{at, err}}:
					case <-ctx.Done():
					}
				})
			case Cancel:
				cancels[instance][f.Lane](errNewer)
			case Done:
				w.done(f.Order, f.Err)
			}
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.orders.C():
			for _, o := range w.orders.Take() {
				w.log.Debug("the agent orders the session's part", "phase", o.Phase, "instance", o.Instance, "to", o.To, "services", len(o.Services))
				step(o.Instance, Given{o})
			}
		case e := <-ends:
			step(e.instance, e.Ended)
		}
	}
}

func (w *Worker) do(ctx context.Context, at Lane, j Job) error {
	err := w.hands[at].Do(ctx, j)
	if err != nil && ctx.Err() == nil {
		w.log.Warn("cannot do the session's part", "phase", j.Phase, "instance", j.Instance, "to", j.To, "error", err)
	} else {
		w.log.Debug("a job of the session has ended", "phase", j.Phase, "lane", at, "instance", j.Instance, "to", j.To, "error", err)
	}
	return err
}
