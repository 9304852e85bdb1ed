package runs_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/lull/lull/e2e/isolate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(isolate.M{Tests: m, In: isolate.Unified}) }
