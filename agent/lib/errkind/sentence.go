package errkind

import (
	"fmt"
	"strings"
	"sync"
)

// Sentence is how a text for people was made, so that another program can translate it: the
// message of the code, and the text of each of its arguments.
type Sentence struct {
	Message string   `json:"message"`         // with the verbs of fmt
	Parts   []string `json:"parts,omitempty"` // one for each verb but %%, in their order
}

// A program remembers the latest of its texts, and no longer ones; in bytes.
const (
	maxSentences = 1024
	maxSentence  = 2 << 10
)

// sentences are the latest texts of this process. Most processes remember none.
var sentences struct {
	mu     sync.Mutex
	known  map[string]Sentence // guarded by mu; nil means that nothing is remembered
	oldest []string            // guarded by mu: the keys of known
}

// RememberSentences makes this process remember how its latest errors, hints and Texts were
// made. Before that call they cost nothing more.
func RememberSentences() {
	sentences.mu.Lock()
	defer sentences.mu.Unlock()
	if sentences.known == nil {
		sentences.known = map[string]Sentence{}
	}
}

// Text is a text for people that is no error, as fmt.Sprintf makes it.
func Text(format string, args ...any) string {
	text := fmt.Sprintf(format, args...)
	remember(text, format, args)
	return text
}

// Mark is a constant that the list of messages has, for a Word.
func Mark(message string) string { return message }

// SentenceOf returns how a text was made, if this process remembers it.
func SentenceOf(text string) (Sentence, bool) {
	sentences.mu.Lock()
	defer sentences.mu.Unlock()
	s, ok := sentences.known[text]
	return s, ok
}

// Remember makes texts known that an earlier process has made, or this one long ago.
func Remember(made map[string]Sentence) {
	sentences.mu.Lock()
	defer sentences.mu.Unlock()
	if sentences.known == nil {
		return
	}
	for text, s := range made {
		rememberLocked(text, s)
	}
}

// SameSentence makes a text known as another way to write a remembered one.
func SameSentence(text, of string) string {
	sentences.mu.Lock()
	defer sentences.mu.Unlock()
	if s, ok := sentences.known[of]; ok {
		rememberLocked(text, s)
	}
	return text
}

// Fixed is an error whose text is a constant message, so that the error can be a constant, too.
type Fixed string

func (f Fixed) Error() string {
	remember(string(f), string(f), nil)
	return string(f)
}

// Word is an argument that is a word of the language, not a name: it is translated, too.
type Word interface{ Word() string }

func remember(text, format string, args []any) {
	sentences.mu.Lock()
	known := sentences.known
	_, again := known[text]
	sentences.mu.Unlock()
	if known == nil || again || len(text) > maxSentence || len(format) == 2 && format[0] == '%' { // the argument is the sentence
		return
	}
	s := Sentence{Message: format}
	for verb := range verbs(format) {
		if len(s.Parts) == len(args) {
			return // a mistake in the code, which vet finds
		}
		arg := args[len(s.Parts)]
		if w, ok := arg.(Word); ok {
			remember(w.Word(), w.Word(), nil)
		}
		s.Parts = append(s.Parts, fmt.Sprintf(strings.Replace(verb, "w", "v", 1), arg))
	}
	sentences.mu.Lock()
	defer sentences.mu.Unlock()
	rememberLocked(text, s)
}

func rememberLocked(text string, s Sentence) {
	if _, again := sentences.known[text]; again || len(text) > maxSentence {
		return
	}
	if len(sentences.oldest) == maxSentences {
		delete(sentences.known, sentences.oldest[0])
		sentences.oldest = sentences.oldest[1:]
	}
	sentences.known[text] = s
	sentences.oldest = append(sentences.oldest, text)
}

// verbs yields those of a format, but %%.
func verbs(format string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for {
			_, rest, found := strings.Cut(format, "%")
			if !found {
				return
			}
			n := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("+-# 0123456789.", r) })
			if n < 0 {
				return
			}
			if rest[n] != '%' && !yield("%"+rest[:n+1]) {
				return
			}
			format = rest[n+1:]
		}
	}
}

// Fill puts the parts into a message, which may be a translation that numbers its verbs.
// The function is applied to each part.
func (s Sentence) Fill(message string, part func(string) string) string {
	var b strings.Builder
	next := 0
	for {
		before, rest, found := strings.Cut(message, "%")
		b.WriteString(before)
		n := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("+-# 0123456789.[]", r) })
		if !found || n < 0 {
			return b.String()
		}
		if rest[n] == '%' {
			b.WriteByte('%')
		} else {
			if _, number, ok := strings.Cut(rest[:n], "["); ok {
				if _, err := fmt.Sscanf(number, "%d]", &next); err == nil {
					next--
				}
			}
			if next >= 0 && next < len(s.Parts) {
				b.WriteString(part(s.Parts[next]))
			}
			next++
		}
		message = rest[n+1:]
	}
}

// maxAsked bounds the sentences of one answer.
const maxAsked = 64

// Sentences returns how texts were made, and their parts, as far as this process remembers
// it, by text. A text that only ends with a remembered one, after a colon, counts for its
// end.
func Sentences(texts []string) map[string]Sentence {
	found := map[string]Sentence{}
	for len(texts) > 0 && len(found) < maxAsked {
		text := texts[0]
		texts = texts[1:]
		if _, again := found[text]; again {
			continue
		}
		if s, ok := SentenceOf(text); ok {
			found[text] = s
			texts = append(texts, s.Parts...)
			continue
		}
		for _, end := range Ends(text) {
			if _, ok := SentenceOf(end); ok {
				texts = append(texts, end)
				break
			}
		}
	}
	return found
}

// Ends returns what follows each of the first colons of a text.
func Ends(text string) (ends []string) {
	for len(ends) < 8 {
		_, rest, found := strings.Cut(text, ": ")
		if !found {
			break
		}
		ends = append(ends, rest)
		text = rest
	}
	return ends
}

// Translation has what Translate needs.
type Translation struct {
	Message func(message string) string        // a message in the language, or itself
	Of      func(text string) (Sentence, bool) // how a text was made
	Amount  func(text string) (string, bool)   // a size or length of time in the language; may be nil
}

// maxNested bounds how many sentences are within each other.
const maxNested = 8

// Translate returns a text, its arguments and their arguments in the language, as far as it
// is known how they were made; ours reports whether the text begins in the language.
func (t Translation) Translate(text string) (shown string, ours bool) {
	return t.within(text, maxNested)
}

func (t Translation) within(text string, depth int) (string, bool) {
	if depth == 0 {
		return text, false
	}
	if t.Amount != nil {
		if shown, ok := t.Amount(text); ok {
			return shown, false
		}
	}
	if s, ok := t.of(text); ok {
		message := t.Message(s.Message)
		ours, first := message != s.Message, true
		shown := s.Fill(message, func(part string) string {
			part, inOurs := t.within(part, depth-1)
			ours = ours || first && inOurs && strings.HasPrefix(message, "%")
			first = false
			return part
		})
		return shown, ours
	}
	for _, end := range Ends(text) {
		if _, ok := t.of(end); ok {
			before := strings.TrimSuffix(text, end)
			shown, ours := t.within(end, depth-1)
			if _, cause := causeOf(end); cause && ours {
				before = withoutCall(before)
			}
			return before + shown, false
		}
	}
	return text, false
}

// of returns how a text was made, also one of the kernel or of a library.
func (t Translation) of(text string) (Sentence, bool) {
	if s, ok := causeOf(text); ok {
		return s, true
	}
	return t.Of(text)
}
