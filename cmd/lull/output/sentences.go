package output

import (
	"regexp"
	"sync"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/texts"
	bus "github.com/lull/lull/dbus"
)

// agentTexts are the messages of the agent, and of the packages that it shares with this
// program.
var agentTexts = sync.OnceValue(func() texts.Texts { return texts.FromEnvironment("lulld") })

// AgentWord returns one of the agent's words, such as the name of a way to track, in the
// language.
func AgentWord(word string) string {
	if !Translates() {
		return word
	}
	return agentTexts().Message(word)
}

// Translates reports whether texts are shown in another language than English.
func Translates() bool { return !language().English() }

// StepText is StepText, with the reason of a stuck refresh in the language.
func (a *Printer) StepText(p bus.RefreshProperties) string {
	p.ErrorText = a.Foreign(p.ErrorText)
	return StepText(p)
}

// quantity matches a size or a length of time that the agent has written.
var quantity = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d+\.\d+ ([kMGTPE]?B|s)$`) })

// Foreign returns a text of the agent in the language, as far as it is known how the text was
// made.
func (a *Printer) Foreign(text string) string {
	if !Translates() || text == "" {
		return text
	}
	shown, _ := a.foreign(text)
	return shown
}

// sentence returns how a text was made. The agent is asked once about each.
func (a *Printer) sentence(text string) (errkind.Sentence, bool) {
	if s, ok := errkind.SentenceOf(text); ok {
		return s, true
	}
	if a.asked == nil {
		a.asked, a.told = map[string]bool{}, map[string]errkind.Sentence{}
	}
	if s, ok := a.told[text]; ok || a.asked[text] || a.AskSentences == nil {
		return s, ok
	}
	for _, t := range append(errkind.Ends(text), text) {
		a.asked[t] = true
	}
	for t, s := range a.AskSentences(text) {
		a.asked[t], a.told[t] = true, s
		for _, part := range s.Parts {
			a.asked[part] = true
		}
	}
	s, ok := a.told[text]
	return s, ok
}

// foreign also reports whether the text begins in the language.
func (a *Printer) foreign(text string) (string, bool) {
	return errkind.Translation{
		Of: a.sentence,
		Message: func(message string) string {
			message = agentTexts().Message(message)
			if !utf8Locale() {
				message = letters.Replace(message)
			}
			return message
		},
		Amount: func(text string) (string, bool) { return Decimal(text), quantity().MatchString(text) },
	}.Translate(text)
}
