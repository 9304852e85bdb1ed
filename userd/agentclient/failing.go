package agentclient

import (
	"context"
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/userd/notify"
)

// failing passes the list on, with the errors in the user's language. The agent is asked how
// they were made. A list that another one has replaced meanwhile is dropped.
func (l *link) failing(ctx context.Context, calls *sync.WaitGroup, list []notify.Failure) {
	l.lists++
	var translate func(string, map[string]errkind.Sentence) string
	if l.Translation != nil {
		translate = l.Translation()
	}
	if translate == nil || len(list) == 0 {
		l.event(notify.Failing{List: list})
		return
	}
	var texts []string
	for _, f := range list {
		texts = append(texts, f.Text)
	}
	mine, owner := l.lists, l.owner
	l.call(ctx, calls, func(ctx context.Context) func() {
		sentences, err := l.manager.Sentences(ctx, texts)
		return func() {
			if l.lists != mine || l.owner != owner {
				return
			}
			if err != nil { // an older one does not know
				l.Log.Info("cannot ask the agent how errors were made, so they are shown in English", "error", err)
			}
			made := map[string]errkind.Sentence{}
			for _, s := range sentences {
				made[s.Text] = errkind.Sentence{Message: s.Message, Parts: s.Parts}
			}
			for i := range list {
				list[i].Text = translate(list[i].Text, made)
			}
			l.event(notify.Failing{List: list})
		}
	})
}
