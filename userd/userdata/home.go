package userdata

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// Home returns the home directory of the user: HOME, or that of the user database
// where HOME is not set, is no absolute path, does not exist, or belongs to
// another user, as after sudo or su. In the latter three cases why has the
// reason.
func Home() (home, why string, err error) {
	home = os.Getenv("HOME")
	reason := homeUsable(home)
	if reason == nil {
		return home, "", nil
	}
	entry, err := passwdHome()
	if err != nil {
		return "", "", errkind.New(errkind.Failed, "its user has no home directory: %w, and %w", reason, err).
			WithHint("set HOME to a directory that belongs to the user")
	}
	if entry != home {
		err = homeUsable(entry)
	} else {
		err = reason
	}
	if err != nil {
		return "", "", errkind.New(errkind.KindOf(err), "its user has no home directory: %w", err).
			WithHint("set HOME to a directory that belongs to the user")
	}
	if home != "" {
		why = reason.Error()
	}
	return entry, why, nil
}

func homeUsable(home string) error {
	if home == "" {
		return errors.New("HOME is not set")
	}
	if !filepath.IsAbs(home) {
		return fmt.Errorf("HOME is %q, which is no absolute path", home)
	}
	var st unix.Stat_t
	if err := unix.Stat(home, &st); err != nil {
		return fmt.Errorf("home directory %s: %w", home, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("home directory %s: %w", home, unix.ENOTDIR)
	}
	// A home may belong to another user, and be shared with its user by its mode. Root
	// could write anywhere.
	if int(st.Uid) != os.Geteuid() && (os.Geteuid() == 0 || unix.Access(home, unix.W_OK) != nil) {
		return errkind.New(errkind.NotPermitted, "the home directory %s belongs to another user", home)
	}
	return nil
}

// passwdHome asks the user database: /etc/passwd itself, and getent(1), which asks
// what else the machine has (NSS), where the user is not in that file.
func passwdHome() (string, error) {
	uid := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(uid); err == nil && u.HomeDir != "" {
		return u.HomeDir, nil
	}
	out, err := exec.Command("getent", "passwd", uid).Output()
	if err != nil {
		return "", fmt.Errorf("the user database has no user %s", uid)
	}
	fields := strings.Split(strings.TrimSpace(string(out)), ":")
	if len(fields) < 7 || fields[5] == "" {
		return "", fmt.Errorf("the user database has no home directory of user %s", uid)
	}
	return fields[5], nil
}

// unwritable names the cause where a home cannot take new data.
func unwritable(err error) error {
	var cause string
	switch {
	case errors.Is(err, unix.EROFS):
		cause = "the home directory is on a file system that is mounted read-only"
	case errors.Is(err, unix.EDQUOT):
		cause = "the user's disk quota is used up"
	case errors.Is(err, unix.ENOSPC):
		cause = "the file system of the home directory is full"
	default:
		return err
	}
	e := errkind.New(errkind.KindOf(err), "%s: %w", cause, err)
	e.Hint = errkind.HintOf(err)
	return e
}
