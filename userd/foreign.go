package userd

import (
	"regexp"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/texts"
	"github.com/lull/lull/userd/notify"
)

// foreign returns what translates texts of the agent into the first of the languages that it
// has; nil for English.
func foreign(languages []string) func(text string, made map[string]errkind.Sentence) string {
	own := texts.For("lull-userd", languages...)
	if own.English() {
		return nil
	}
	return func(text string, made map[string]errkind.Sentence) string {
		// The catalog is large and rarely needed, so it is not kept.
		agent := texts.For("lulld", languages...)
		quantity := regexp.MustCompile(`^\d+(\.\d+)? ([kMGTPE]?B|s)$`)
		shown, _ := errkind.Translation{
			Message: agent.Message,
			Of:      func(text string) (errkind.Sentence, bool) { s, ok := made[text]; return s, ok },
			Amount: func(text string) (string, bool) {
				return notify.Decimal(own, text), quantity.MatchString(text)
			},
		}.Translate(text)
		return shown
	}
}
