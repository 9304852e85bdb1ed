package publish

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// TestManyPackagesBesideDelegation: a repository that delegates names has as many bins as its
// packages need, and the names of the other publisher stay out of them.
func TestManyPackagesBesideDelegation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	c := Common{Now: signedAt}
	if err := Init(t.Context(), dir, InitOptions{Common: c}); err != nil {
		t.Fatal(err)
	}
	if err := Delegate(t.Context(), dir, DelegateOptions{Common: c, Role: "vendor", Names: []string{"org.vendor.*"}}); err != nil {
		t.Fatal(err)
	}
	const packages, delegated = 5001, 7
	err := c.transact(t.Context(), dir, false, func(s *state) error {
		for i := range packages {
			name := fmt.Sprintf("org.example.p%d", i)
			if i < delegated {
				name = fmt.Sprintf("org.vendor.p%d", i)
			}
			target := metadata.TargetFile()
			target.Hashes["sha256"] = make([]byte, digest.Size)
			s.targets.Signed.Targets[repo.PointerPath(name, "stable")] = target
		}
		divided := func(roles []metadata.DelegatedRole, inTargets int) error {
			t.Helper()
			if err := s.divide(packages, roles, nil); err != nil {
				return err
			}
			if err := s.redistribute(); err != nil {
				return err
			}
			if bits := s.divided.Signed.Delegations.SuccinctRoles.BitLength; bits != 11 {
				t.Errorf("there are %d bits, want 11", bits)
			}
			inBins := 0
			for role, b := range s.bins {
				if role != "vendor" {
					inBins += len(b.Signed.Targets)
				}
			}
			if n := len(s.targets.Signed.Targets); n != inTargets || inBins != packages-inTargets {
				t.Errorf("the targets list %d channels and the bins %d, want %d and %d", n, inBins, inTargets, packages-inTargets)
			}
			for role, b := range s.bins { // as if they were written
				s.snapshot.Signed.Meta[role+".json"] = metadata.MetaFile(b.Signed.Version)
			}
			return nil
		}
		return errors.Join(divided(s.delegatedRoles(), delegated), divided(nil, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoleNamedLikeABin: names of such a role, which an earlier lull has made, are not mixed
// with those of a bin.
func TestRoleNamedLikeABin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	c := Common{Now: signedAt}
	if err := Init(t.Context(), dir, InitOptions{Common: c}); err != nil {
		t.Fatal(err)
	}
	err := c.transact(t.Context(), dir, false, func(s *state) error {
		k, err := s.keys.create(s.keys.path("bin-3ff"))
		if err != nil {
			return err
		}
		return s.delegateTo(metadata.DelegatedRole{Name: "bin-3ff", KeyIDs: []string{k.id}, Threshold: 1, Terminating: true, Paths: []string{repo.PointerPath("a", "*")}}, []key{k})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Resign(t.Context(), dir, ResignOptions{Common: c, Bins: true}); !errkind.Is(err, errkind.Conflict) {
		t.Errorf("%s, %v, want %s", errkind.KindOf(err), err, errkind.Conflict)
	}
}
