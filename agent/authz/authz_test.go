package authz

import (
	"encoding/xml"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// polkit is a stand-in that records the question.
type polkit struct {
	sync.Mutex
	answer  answer
	subject subject
	action  string
	flags   uint32
}

func (p *polkit) CheckAuthorization(s subject, action string, _ map[string]string, flags uint32, _ string) (answer, *dbus.Error) {
	p.Lock()
	defer p.Unlock()
	p.subject, p.action, p.flags = s, action, flags
	a := p.answer
	a.Details = map[string]string{}
	return a, nil
}

// declared is an action as polkit lists it.
type declared struct {
	ID, Description, Message, VendorName, VendorURL, Icon string
	Any, Inactive, Active                                 uint32
	Annotations                                           map[string]string
}

// EnumerateActions lists all but one.
func (p *polkit) EnumerateActions(string) ([]declared, *dbus.Error) {
	list := []declared{{ID: "org.example.other", Annotations: map[string]string{}}}
	for _, a := range Actions() {
		if a != GC {
			list = append(list, declared{ID: a, Annotations: map[string]string{}})
		}
	}
	return list, nil
}

// TestUnknown: what the doctor asks.
func TestUnknown(t *testing.T) {
	address := bustest.Start(t)
	a := New(dial(t, address), own)
	if list, err := a.Unknown(t.Context()); !errkind.Is(err, errkind.Unavailable) || errkind.HintOf(err) == "" {
		t.Errorf("without polkit: got %v, %v (hint %q); want an error of kind %s with a hint", list, err, errkind.HintOf(err), errkind.Unavailable)
	}
	peer := dial(t, address)
	if err := peer.Export(&polkit{}, polkitPath, "org.freedesktop.PolicyKit1.Authority"); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.RequestName(polkitName, 0); err != nil {
		t.Fatal(err)
	}
	if list, err := a.Unknown(t.Context()); err != nil || !slices.Equal(list, []string{GC}) {
		t.Errorf("got unknown actions %v (%v), want %s alone", list, err, GC)
	}
}

func dial(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := bus.Dial(t.Context(), address, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

const stranger, own = 64999, 64998

func TestRootAndOwnUserPass(t *testing.T) {
	a := New(nil, own)
	for _, uid := range []uint32{0, own} {
		if err := a.Check(bus.LocalCaller(":1.1", uid, 1), Install); err != nil {
			t.Errorf("uid %d: %v", uid, err)
		}
	}
}

func TestNobodyKnownIsRefused(t *testing.T) {
	if err := New(nil, 0).Check(bus.Caller{}, Install); !errkind.Is(err, errkind.NotPermitted) {
		t.Fatalf("a caller without a UID: got %v, want an error of kind NotPermitted", err)
	}
}

func TestWithoutPolkit(t *testing.T) {
	a := New(dial(t, bustest.Start(t)), own)
	err := a.Check(bus.LocalCaller(":1.1", stranger, 1), GC)
	if !errkind.Is(err, errkind.NotPermitted) ||
		!strings.HasPrefix(err.Error(), "cannot collect or verify the store: user 64999 is not permitted to; only root is, as polkit is not running") ||
		errkind.HintOf(err) != "use sudo, or install polkit" {
		t.Fatalf("got %v (%s, hint %q), want \"cannot collect or verify the store: user 64999 is not permitted to; only root is, as polkit is not running\" of kind NotPermitted with hint \"use sudo, or install polkit\"", err, errkind.KindOf(err), errkind.HintOf(err))
	}
}

func TestPolkitDecides(t *testing.T) {
	address := bustest.Start(t)
	p := &polkit{}
	peer := dial(t, address)
	if err := peer.Export(p, polkitPath, "org.freedesktop.PolicyKit1.Authority"); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.RequestName(polkitName, 0); err != nil {
		t.Fatal(err)
	}
	a := New(dial(t, address), own)
	for _, test := range []struct {
		answer      answer
		interactive bool
		text        string // "" means allowed
	}{
		{answer{Authorized: true}, true, ""},
		{answer{}, true, "cannot install or remove packages as user 64999: the system does not allow it (org.lull.install)"},
		{answer{Challenge: true}, true, "cannot install or remove packages as user 64999: it needs a password, and none was given"},
		{answer{Challenge: true}, false, "cannot install or remove packages as user 64999: it needs a password, and the caller cannot be asked for one"},
	} {
		p.Lock()
		p.answer = test.answer
		p.Unlock()
		c := bus.LocalCaller(":1.77", stranger, 1)
		c.Interactive = test.interactive
		err := a.Check(c, Install)
		if test.text == "" && err != nil || test.text != "" && (!errkind.Is(err, errkind.NotPermitted) || err.Error() != test.text) {
			t.Errorf("%+v: got %v, want %q of kind NotPermitted (empty: no error)", test, err, test.text)
		}
		p.Lock()
		if p.subject.Kind != "system-bus-name" || p.subject.Details["name"].Value() != ":1.77" || p.action != Install || p.flags == 1 != test.interactive {
			t.Errorf("got a question about %+v, action %s and flags %d; want system-bus-name :1.77, %s and interactive %v", p.subject, p.action, p.flags, Install, test.interactive)
		}
		p.Unlock()
	}
}

// The file that the system reads and the constants of this package agree.
func TestActionsAreDeclared(t *testing.T) {
	data, err := os.ReadFile("../../policy/org.lull.policy")
	if err != nil {
		t.Fatal(err)
	}
	type text struct {
		Lang string `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
		Text string `xml:",chardata"`
	}
	var file struct {
		Actions []struct {
			ID           string `xml:"id,attr"`
			Descriptions []text `xml:"description"`
			Messages     []text `xml:"message"`
			Defaults     struct {
				Any      string `xml:"allow_any"`
				Inactive string `xml:"allow_inactive"`
				Active   string `xml:"allow_active"`
			} `xml:"defaults"`
		} `xml:"action"`
	}
	if err := xml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range file.Actions {
		ids = append(ids, a.ID)
		for _, texts := range [][]text{a.Descriptions, a.Messages} {
			// The one without a language comes first, and every language has both.
			if len(texts) != 2 || texts[0].Lang != "" || texts[1].Lang != "de" || texts[0].Text == "" || texts[1].Text == "" || texts[0].Text == texts[1].Text {
				t.Errorf("%s: got texts %q, want two different ones, without a language and in German", a.ID, texts)
			}
		}
		if a.Defaults.Any == "yes" && a.ID != Hold || a.Defaults.Active == "" || a.Defaults.Inactive == "" {
			t.Errorf("got %+v, want defaults for all three, and yes for any caller only in %s", a, Hold)
		}
	}
	want := Actions()
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("declared %v, want %v", ids, want)
	}
	for _, a := range want {
		if what[a] == "" {
			t.Errorf("%s has no words", a)
		}
	}
}
