package words

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumented: the bus interfaces document exactly these words.
func TestDocumented(t *testing.T) {
	for _, tt := range []struct {
		file, member string
		word         *regexp.Regexp
		want         []string
	}{
		{"org.lull.Session1.xml", `method name="LaunchWaits"`, regexp.MustCompile(`(refresh-[a-z-]+)`), []string{RefreshInProgress, RefreshPending, RefreshStarting}},
		{"org.lull.Agent1.xml", `signal name="Work"`, regexp.MustCompile(`(?:Phases: |\), )([a-z]+) \(`), []string{PhaseAbandon, PhaseEnter, PhaseFinish, PhasePrecopy, PhaseSession, PhaseUndo}},
	} {
		t.Run(tt.member, func(t *testing.T) {
			text, err := os.ReadFile("../../../dbus/" + tt.file)
			if err != nil {
				t.Fatal(err)
			}
			at := regexp.MustCompile(`(?s)<` + tt.member + `.*?</(method|signal)>`).FindString(string(text))
			at, _, _ = strings.Cut(at, " Keys: ")
			var got []string
			for _, m := range tt.word.FindAllStringSubmatch(at, -1) {
				got = append(got, m[1])
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, tt.want) {
				t.Errorf("%s documents %q, want %q", tt.member, got, tt.want)
			}
		})
	}
}
