package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/policy"
)

// checkPolicy checks the present files.
const policyAdvice = "lull policy check lists everything that is wrong; the policy that was read before holds until lull policy reload reads a good one"

func (d *Doctor) checkPolicy(add func(name, state, seen, advice string)) {
	_, err := policy.Load(d.Files.Policy, d.Files.Dropins)
	read, refused := d.PolicyRead()
	changed, cerr := d.policyChanged(read)
	switch {
	case err != nil:
		add("policy", Fail, err.Error(), errkind.Text(policyAdvice))
	case refused != nil && !changed:
		add("policy", Fail, errkind.Text("refused when it was read last: %s", refused.Error()), errkind.Text(policyAdvice))
	case cerr != nil:
		add("policy", Fail, cerr.Error(), errkind.Text("see that %s can be read", d.Files.Dir))
	case changed:
		add("policy", Warn, errkind.Text("files in %s have changed since they were read", d.Files.Dir), errkind.Text("lull policy reload reads them again"))
	default:
		add("policy", OK, errkind.Text("as in %s", d.Files.Dir), "")
	}
	if err := d.SystemList(); err != nil {
		add("system list", Fail, err.Error(), errkind.Text("mend it; what was read before holds until lull policy reload reads a good one, and where nothing was, nothing is collected"))
	}
}

// policyChanged reports whether a policy file is younger than the last reading was. A removed
// file leaves a younger directory behind.
func (d *Doctor) policyChanged(read time.Time) (bool, error) {
	names, err := filepath.Glob(filepath.Join(d.Files.Dropins, "*.yaml"))
	if err != nil {
		return false, err
	}
	for _, name := range append(names, d.Files.Policy, d.Files.Dropins) {
		fi, err := os.Stat(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err == nil && fi.ModTime().After(read) {
			return true, nil
		}
	}
	return false, nil
}
