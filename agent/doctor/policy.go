package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lull/lull/policy"
)

// checkPolicy checks the present files.
func (d *Doctor) checkPolicy(add func(name, state, seen, advice string)) {
	const check = "lull policy check lists everything that is wrong; the policy that was read before holds until lull policy reload reads a good one"
	_, err := policy.Load(d.Files.Policy, d.Files.Dropins)
	read, refused := d.PolicyRead()
	changed, cerr := d.policyChanged(read)
	switch {
	case err != nil:
		add("policy", Fail, err.Error(), check)
	case refused != nil && !changed:
		add("policy", Fail, "refused when it was read last: "+refused.Error(), check)
	case cerr != nil:
		add("policy", Fail, cerr.Error(), "see that "+d.Files.Dir+" can be read")
	case changed:
		add("policy", Warn, "files in "+d.Files.Dir+" have changed since they were read", "lull policy reload reads them again")
	default:
		add("policy", OK, "as in "+d.Files.Dir, "")
	}
	if err := d.SystemList(); err != nil {
		add("system list", Fail, err.Error(), "mend it; what was read before holds until lull policy reload reads a good one, and where nothing was, nothing is collected")
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
