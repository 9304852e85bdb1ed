// Package runname spells the names of runs: of cgroups, scopes and service
// units. The agent reads them back; the launcher writes them and checks that it
// is in the right one.
//
//	freezer  /lull.<instance>/<hash16>.<8 hex>             a run of the application
//	         /lull-svc.<instance>/<hash16>.<8 hex>.<service>  one of a service
//	subtree  /lull/app/<instance>/<hash16>.<8 hex>, /lull/svc/<instance>/<hash16>.<8 hex>.<service>
//	scope    app-lull-<instance escaped>-<hash16><8 hex>.scope
//	         lull-<instance escaped>-<service escaped>.service
//
// hash16 is the first 16 hexadecimal digits of the package hash. Services have
// groups of their own, so that a live daemon never hides that the application
// has ended. The scope's name follows the Desktop Environments section of
// systemd.io: app-<launcher>-<application>-<random>.scope.
//
// All functions are pure.
package runname

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
)

// The fixed parts of names.
const (
	FreezerApp  = "lull."     // begins the freezer group of an instance
	FreezerSvc  = "lull-svc." // begins that of its services
	SubtreeApp  = "lull/app"  // below the unified hierarchy's root
	SubtreeSvc  = "lull/svc"
	scopePrefix = "app-lull-"
	scopeSuffix = ".scope"
	unitPrefix  = "lull-"
	unitSuffix  = ".service"

	randomLen = 8
)

// Random returns the random part of a name. It keeps the names of runs apart and
// guards nothing; the launcher has no time to set up more than the runtime's own
// generator.
func Random() string { return fmt.Sprintf("%0*x", randomLen, rand.Uint32()) }

// Run names the group of a run; service is "" for the application.
func Run(pkg digest.Digest, service, random string) string {
	name := pkg.Short() + "." + random
	if service != "" {
		name += "." + service
	}
	return name
}

// ParseRun takes the name of a run's group apart.
func ParseRun(name string) (prefix, service string, ok bool) {
	prefix, rest, ok := strings.Cut(name, ".")
	if !ok || len(prefix) != digest.ShortLen || !digest.IsHex(prefix) {
		return "", "", false
	}
	random, service, hasService := strings.Cut(rest, ".")
	if len(random) != randomLen || !digest.IsHex(random) || hasService && service == "" {
		return "", "", false
	}
	return prefix, service, true
}

// FreezerGroup names the group, below the freezer's root, that holds the runs
// of an instance or of its services.
func FreezerGroup(instance string, service bool) string {
	if service {
		return FreezerSvc + instance
	}
	return FreezerApp + instance
}

// ParseFreezerGroup takes the name of such a group apart.
func ParseFreezerGroup(name string) (instance string, service, ok bool) {
	if instance, ok = strings.CutPrefix(name, FreezerSvc); ok {
		return instance, true, instance != ""
	}
	instance, ok = strings.CutPrefix(name, FreezerApp)
	return instance, false, ok && instance != ""
}

// SubtreeGroup is FreezerGroup for the unified hierarchy: a path of three names.
func SubtreeGroup(instance string, service bool) string {
	if service {
		return SubtreeSvc + "/" + instance
	}
	return SubtreeApp + "/" + instance
}

// Scope names the transient scope of a run.
func Scope(instance string, pkg digest.Digest, random string) string {
	return scopePrefix + Escape(instance) + "-" + pkg.Short() + random + scopeSuffix
}

// ParseScope takes the name of a scope apart. Scopes that other launchers have
// made are not ok.
func ParseScope(unit string) (instance, prefix string, ok bool) {
	rest, ok := strings.CutPrefix(unit, scopePrefix)
	if !ok {
		return "", "", false
	}
	rest, ok = strings.CutSuffix(rest, scopeSuffix)
	if !ok {
		return "", "", false
	}
	escaped, tail, ok := strings.Cut(rest, "-") // an escaped instance has no '-'
	if !ok || len(tail) != digest.ShortLen+randomLen || !digest.IsHex(tail) {
		return "", "", false
	}
	instance, ok = unescape(escaped)
	return instance, tail[:digest.ShortLen], ok
}

// MayBe reports whether a name can be one of a scope or of a service's unit. It is for
// callers that skip most names of a long list.
func MayBe(unit []byte) bool {
	return bytes.HasPrefix(unit, []byte(scopePrefix)) || bytes.HasPrefix(unit, []byte(unitPrefix))
}

// ServiceUnit names the unit of a service.
func ServiceUnit(instance, service string) string {
	return unitPrefix + Escape(instance) + "-" + Escape(service) + unitSuffix
}

// ParseServiceUnit takes the name of a service's unit apart; lull's own units,
// as lull-boot.service, are not ok.
func ParseServiceUnit(unit string) (instance, service string, ok bool) {
	rest, ok := strings.CutPrefix(unit, unitPrefix)
	if !ok {
		return "", "", false
	}
	rest, ok = strings.CutSuffix(rest, unitSuffix)
	if !ok {
		return "", "", false
	}
	i, s, ok := strings.Cut(rest, "-")
	if !ok {
		return "", "", false
	}
	instance, ok1 := unescape(i)
	service, ok2 := unescape(s)
	return instance, service, ok1 && ok2
}

// Escape is systemd's escaping of unit names, systemd.unit(5) "String Escaping
// for Inclusion in Unit Names", for strings without '/'.
func Escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == ':', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			b.WriteString(`\x` + hex.EncodeToString([]byte{c}))
		}
	}
	return b.String()
}

func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) || s[i+1] != 'x' {
			return "", false
		}
		c, err := hex.DecodeString(s[i+2 : i+4])
		if err != nil || c[0] == '/' || c[0] == 0 {
			return "", false
		}
		b.WriteByte(c[0])
		i += 3
	}
	return b.String(), b.Len() > 0
}
