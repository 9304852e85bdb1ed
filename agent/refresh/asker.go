package refresh

import (
	"context"
	"github.com/lull/lull/agent/refresh/plan"
)

type askerKey struct{}

// AskedBy returns a context that makes Submit record who asked for a refresh.
func AskedBy(ctx context.Context, who plan.Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, who)
}

// asker returns who asked for a refresh; nil means that the agent began it by itself.
func asker(ctx context.Context) *plan.Asker {
	if who, ok := ctx.Value(askerKey{}).(plan.Asker); ok {
		return &who
	}
	return nil
}
