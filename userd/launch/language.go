package launch

import (
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/texts/po"
)

// speak makes the launcher translate its messages, if this process has a language that is not
// English. The catalog is read when the first message is printed.
func speak() {
	if len(po.Names(po.Languages())) > 0 {
		errkind.RememberSentences()
	}
}

var catalog = sync.OnceValue(func() map[string]string { return po.Catalog("lull-run", po.Languages()) })

// translated returns a message, or the text of an error, in the language of this process.
func translated(text string) string {
	t := errkind.Translation{Of: errkind.SentenceOf, Message: func(message string) string {
		if m, ok := catalog()[message]; ok {
			return m
		}
		return message
	}}
	text, _ = t.Translate(text)
	return text
}
