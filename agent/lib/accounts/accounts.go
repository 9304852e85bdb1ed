// Package accounts names users, and finds the user who is answerable for a number.
package accounts

import (
	"bytes"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// Nobody is the common user of all numbers that belong to no user: the
// kernel's overflow UID (user_namespaces(7)).
const Nobody = 65534

// Name returns the name of a user, or the number if /etc/passwd has no name for it.
func Name(uid uint32) string {
	if name, ok := lookUp(uid); ok {
		return name
	}
	return decimal(uid)
}

// Of returns the user whose bounds count for uid. An ordinary user can have 65,536 and more
// numbers as well, in user namespaces, and call from each of them: subordinate ones
// (subuid(5)) count for the user who has them, and those that belong to no user
// at all, such as a transient range of systemd-nsresourced(8), count for Nobody. A user
// who is not in /etc/passwd, as one of a directory service, is recognized by being logged
// in.
//
// Of reads small files each time. It is for bounds alone: what uid may do is another
// question.
func Of(uid uint32) uint32 {
	return tables{users: "/run/systemd/users", subuid: "/etc/subuid", lookUp: lookUp}.of(uid)
}

type tables struct {
	users  string // a directory of systemd-logind's with a file for each user who is logged in, by number
	subuid string
	lookUp func(uid uint32) (name string, ok bool)
}

func (t tables) of(uid uint32) uint32 {
	if uid == 0 || int(uid) == os.Getuid() {
		return uid
	}
	if _, err := os.Stat(filepath.Join(t.users, decimal(uid))); err == nil {
		return uid
	}
	if _, ok := t.lookUp(uid); ok {
		return uid
	}
	if owner, ok := t.owner(uid); ok {
		return owner
	}
	return Nobody
}

// owner looks uid up in the ranges of subuid(5): lines of user, first number, count, with
// colons in between. The user is a name or a number.
func (t tables) owner(uid uint32) (owner uint32, ok bool) {
	b, err := os.ReadFile(t.subuid)
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(b) {
		fields := bytes.Split(bytes.TrimSpace(line), []byte(":"))
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(string(fields[1]), 10, 32)
		count, err2 := strconv.ParseUint(string(fields[2]), 10, 33)
		if err1 != nil || err2 != nil || uint64(uid) < first || uint64(uid) >= first+count {
			continue
		}
		name := string(fields[0])
		if n, err := strconv.ParseUint(name, 10, 32); err == nil {
			return uint32(n), true
		}
		if u, err := user.Lookup(name); err == nil {
			n, err := strconv.ParseUint(u.Uid, 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}

func lookUp(uid uint32) (name string, ok bool) {
	u, err := user.LookupId(decimal(uid))
	if err != nil {
		return "", false
	}
	return u.Username, true
}

func decimal(uid uint32) string { return strconv.FormatUint(uint64(uid), 10) }
