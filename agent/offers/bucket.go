package offers

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/storeid"
)

// machineID returns an ID that stays the same on a machine, for rollouts to a share of the
// machines.
func (o *Offers) machineID() string {
	o.bucket.Do(func() {
		o.bucketID = findMachineID("/etc/machine-id", filepath.Join(o.Root, storeid.RolloutFile), o.warnBucket)
	})
	return o.bucketID
}

func (o *Offers) warnBucket(err error) {
	o.Log.Warn("which share of the machines this one is in cannot be kept, so it changes with each start", "error", err)
}

// findMachineID reads the machine-id, or makes one in the file kept.
func findMachineID(system, kept string, warn func(error)) string {
	valid := func(path string) (string, bool) {
		b, err := os.ReadFile(path)
		id := string(bytes.TrimSpace(b))
		raw, derr := hex.DecodeString(id)
		return id, err == nil && derr == nil && len(raw) == 16
	}
	if id, ok := valid(system); ok {
		return id
	}
	if id, ok := valid(kept); ok {
		return id
	}
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	id := hex.EncodeToString(raw[:])
	if err := durable.WriteFile(kept, []byte(id+"\n"), 0o600); err != nil {
		warn(err)
	}
	return id
}
