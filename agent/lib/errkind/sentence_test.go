package errkind

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

type kind string

func (k kind) Word() string { return string(k) }

func TestSentences(t *testing.T) {
	if New(Busy, "cannot forget %s", "x"); sentences.known != nil {
		t.Fatal("sentences are remembered without a call")
	}
	RememberSentences()
	inner := New(NotFound, "cannot find %s: %d%% of %.3q", "notes", 7, "abcdef")
	outer := New(Failed, "cannot %s it: %w", kind("refresh"), inner).WithHint("try %s", "later")
	german := map[string]string{
		"cannot %s it: %w":             "%[2]w; darum nicht: %[1]s",
		"refresh":                      "auffrischen",
		"cannot find %s: %d%% of %.3q": "%[3].3q: %[2]d%% von %[1]s fehlen",
		"try %s":                       "versuchen Sie es %s",
	}
	var translate func(map[string]Sentence, string) string
	translate = func(known map[string]Sentence, text string) string {
		s, ok := known[text]
		if !ok {
			return text
		}
		return s.Fill(german[s.Message], func(part string) string { return translate(known, part) })
	}
	wrapped := fmt.Sprintf("repository x: %v", outer)
	known := Sentences([]string{wrapped, outer.Hint, "unknown", strings.Repeat("a: ", 100)})
	if got := translate(known, outer.Text); got != `"abc": 7% von notes fehlen; darum nicht: auffrischen` {
		t.Error(got)
	}
	if got := translate(known, outer.Hint); got != "versuchen Sie es later" {
		t.Error(got)
	}
	if SameSentence("could not do", inner.Text); translate(Sentences([]string{"could not do"}), "could not do") != `"abc": 7% von notes fehlen` {
		t.Error("the other way to write it is not known")
	}
}

// What is remembered has a bound, also for the sizes of texts and answers.
func TestSentencesBounds(t *testing.T) {
	RememberSentences()
	long := New(Failed, "%s", strings.Repeat("x", maxSentence+1))
	if _, ok := SentenceOf(long.Text); ok {
		t.Error("a long text is remembered")
	}
	err := errors.New("x")
	for i := range 3 * maxSentences {
		err = New(Failed, "%d: %w", i%10, err)
		Text("text %d", i)
	}
	if len(sentences.known) > maxSentences || len(sentences.oldest) != len(sentences.known) {
		t.Errorf("got %d known sentences and %d in the order of age, want as many of both and at most %d", len(sentences.known), len(sentences.oldest), maxSentences)
	}
	if _, ok := SentenceOf("text 3071"); !ok {
		t.Error("the latest is not remembered")
	}
	var asked []string
	for i := range maxSentences {
		asked = append(asked, fmt.Sprintf("text %d", 3*maxSentences-1-i))
	}
	if n := len(Sentences(asked)); n > maxAsked || n < maxAsked/2 {
		t.Error(n)
	}
	for _, message := range []string{"%", "%[", "%[9]s", "%[-1]s", "%[99999999999999999999]s", "%d%", "100%"} {
		Sentence{message, []string{"a"}}.Fill(message, strings.ToUpper)
	}
}
