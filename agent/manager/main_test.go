package manager

import (
	"os"
	"testing"

	"github.com/lull/lull/e2e/isolate"
)

func TestMain(m *testing.M) { os.Exit(isolate.Main(isolate.All, m.Run)) }
