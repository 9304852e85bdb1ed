package offers

import (
	"context"
	"slices"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
)

// answer is what one of several repositories has answered.
type answer[T any] struct {
	repository string
	value      T
	err        error
}

// ask runs read for repositories in parallel, and returns their answers. Once one of them has
// answered without an error, the others are awaited for otherAnswers: a bad repository delays
// no other. Of a repository that has not answered by then the last contents count, with an
// error of kind Unavailable. Its reading goes on until its own deadline. With now false no
// repository is read, but a file that its last contents name may still have to be fetched.
func ask[T any](ctx context.Context, o *Offers, names []string, now bool, read func(ctx context.Context, repository string, now bool) (T, error)) (all []answer[T]) {
	answers := make(chan answer[T], len(names))
	for _, n := range names {
		o.wg.Go(func() {
			value, err := read(o.ctx, n, now)
			answers <- answer[T]{n, value, err}
		})
	}
	waiting := slices.Clone(names)
	var enough <-chan time.Time
	var why error
	for len(waiting) > 0 && why == nil {
		select {
		case a := <-answers:
			waiting = slices.DeleteFunc(waiting, func(n string) bool { return n == a.repository })
			all = append(all, a)
			if a.err == nil && enough == nil {
				t := time.NewTimer(otherAnswers)
				defer t.Stop()
				enough = t.C
			}
		case <-enough:
			why = errkind.New(errkind.Unavailable, "it has not answered within a second after another one")
		case <-ctx.Done():
			why = errkind.New(errkind.Interrupted, "%w", context.Cause(ctx))
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel() // no request is sent
	for _, n := range waiting {
		value, _ := read(ended, n, false) // the error is another one
		all = append(all, answer[T]{n, value, errkind.New(errkind.KindOf(why), "cannot read repository %q: %w", n, why)})
	}
	return all
}
