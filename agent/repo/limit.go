package repo

import (
	"context"
	"sync"
	"time"
)

// Limit bounds the rate at which content is fetched by all transfers that share it. It may be
// used from any goroutine.
type Limit struct {
	rate func(now time.Time, requested bool) int64

	mu   sync.Mutex
	paid time.Time // until when the fetched bytes use up the rate
}

// NewLimit returns a limit. Rate returns the bytes per second that are allowed at a time to
// transfers that a user has requested, or to others; 0 means no limit. It is called for each
// part of a transfer, so that a change takes effect at once.
func NewLimit(rate func(now time.Time, requested bool) int64) *Limit { return &Limit{rate: rate} }

type unrequested struct{}

// Unrequested returns a context for transfers that no user has requested. If requested, which
// may be nil, returns true, a user has requested them meanwhile.
func Unrequested(ctx context.Context, requested func() bool) context.Context {
	if requested == nil {
		requested = func() bool { return false }
	}
	return context.WithValue(ctx, unrequested{}, requested)
}

// limited is the limit of one transfer; nil means that it has none.
type limited struct {
	*Limit
	requested func() bool
}

// of returns the limit of the transfers of a context.
func (l *Limit) of(ctx context.Context) *limited {
	if l == nil {
		return nil
	}
	if requested, ok := ctx.Value(unrequested{}).(func() bool); ok {
		return &limited{l, requested}
	}
	return &limited{l, func() bool { return true }}
}

const (
	// limitPart is the size of a read, in bytes, with a limit: at the lowest rate of a policy
	// less than two seconds.
	limitPart = 16 << 10
	// limitLook is the longest time until a waiting transfer checks whether the limit still
	// holds.
	limitLook = time.Second
)

// part returns the beginning of b that is read at once.
func (l *limited) part(b []byte) []byte {
	if l == nil || len(b) <= limitPart || l.rate(time.Now(), l.requested()) == 0 {
		return b
	}
	return b[:limitPart]
}

// spend waits until the rate allows that n bytes were fetched. Bytes are not saved up.
func (l *limited) spend(ctx context.Context, n int) error {
	if l == nil || n == 0 {
		return nil
	}
	now := time.Now()
	rate := l.rate(now, l.requested())
	if rate <= 0 {
		return nil
	}
	l.mu.Lock()
	if l.paid.Before(now) {
		l.paid = now
	}
	l.paid = l.paid.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	until := l.paid
	l.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		timer.Reset(min(left, limitLook))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		if l.rate(time.Now(), l.requested()) != rate {
			l.mu.Lock()
			l.paid = time.Time{} // what others wait for was for the rate of before
			l.mu.Unlock()
			return nil
		}
	}
}
