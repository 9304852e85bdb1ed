package local

import "pault.ag/go/debian/version"

// Older reports whether version v is older than another, by the rules of Debian
// (deb-version(7)), which order the versions of most projects.
func Older(v, than string) bool {
	parse := func(s string) version.Version {
		p, err := version.Parse(s)
		if err != nil {
			return version.Version{Version: s}
		}
		return p
	}
	return version.Compare(parse(v), parse(than)) < 0
}
