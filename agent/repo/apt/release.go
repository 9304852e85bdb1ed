package apt

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lull/lull/agent/lib/digest"
)

// Release is the content of a verified InRelease file.
type Release struct {
	Suite, Codename string // "" where the vendor writes none
	Date            time.Time
	ValidUntil      time.Time // zero means for ever

	files  map[string]file // by path below the directory of the release
	all    bool            // packages for all architectures have an index of their own
	byHash bool            // indices also have names by their hash, which remain during a publication
}

// file is a release's entry for a file.
type file struct {
	hash digest.Digest
	size int64 // bytes
}

// maxFiles bounds the files that a release names.
const maxFiles = 100_000

// parseRelease reads the signed text of an InRelease file. The error has no kind.
func parseRelease(signed []byte) (*Release, error) {
	f := newFields(bytes.NewReader(signed), "Suite", "Codename", "Date", "Valid-Until", "SHA256", "Architectures", "No-Support-for-Architecture-all", "Acquire-By-Hash")
	v, err := f.next()
	if errors.Is(err, io.EOF) {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	r := &Release{Suite: v["suite"], Codename: v["codename"], files: map[string]file{}}
	if r.Date, err = date(v["date"]); err != nil {
		return nil, fmt.Errorf("its date %.40q cannot be read", v["date"])
	}
	if until := v["valid-until"]; until != "" {
		if r.ValidUntil, err = date(until); err != nil {
			return nil, fmt.Errorf("its end %.40q cannot be read", until)
		}
	}
	r.all = slices.Contains(strings.Fields(v["architectures"]), "all") && !strings.Contains(v["no-support-for-architecture-all"], "Packages")
	r.byHash = v["acquire-by-hash"] == "yes"
	for line := range strings.SplitSeq(v["sha256"], "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 || len(r.files) == maxFiles {
			return nil, fmt.Errorf("its list of files is damaged: %.80q", line)
		}
		hash, err := digest.Parse(strings.ToLower(words[0]))
		if err != nil {
			return nil, fmt.Errorf("its list of files is damaged: %.80q", line)
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("its list of files is damaged: %.80q", line)
		}
		r.files[path.Clean(words[2])] = file{hash, size} // flat repositories may write ./Packages
	}
	if len(r.files) == 0 {
		return nil, errors.New("it has no SHA-256 of its files")
	}
	return r, nil
}

// date reads a date of a release: RFC 5322's with UTC or GMT, in one or two digits.
func date(s string) (time.Time, error) {
	for _, layout := range []string{http.TimeFormat, time.RFC1123, time.RFC1123Z, "Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		t, err := time.Parse(layout, s)
		if err == nil {
			if name, offset := t.Zone(); offset == 0 && name != "UTC" && name != "GMT" && name != "" && name != "+0000" {
				return t, errors.New("the time zone is unknown")
			}
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("it is no date")
}

// usable returns an error if a release must not be used now: it is for another suite, it has
// expired, or it is older than one that was accepted.
func (r *Release) usable(suite string, accepted, now time.Time) error {
	const clocks = 24 * time.Hour // how far a vendor's clock may be ahead
	flat := strings.HasSuffix(suite, "/")
	switch {
	case !flat && (r.Suite != "" || r.Codename != "") && suite != r.Suite && suite != r.Codename:
		return fmt.Errorf("it is of the suite %s (%s), not of %s", cmp.Or(r.Suite, "none"), cmp.Or(r.Codename, "no code name"), suite)
	case r.Date.Before(accepted):
		return fmt.Errorf("it is of %s, and one of %s was accepted before: the repository was rolled back", stamp(r.Date), stamp(accepted))
	case r.Date.After(now.Add(clocks)):
		return fmt.Errorf("it is of %s, which is in the future, or the clock of this machine is wrong", stamp(r.Date))
	case !r.ValidUntil.IsZero() && now.After(r.ValidUntil):
		return fmt.Errorf("it has expired at %s", stamp(r.ValidUntil))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
