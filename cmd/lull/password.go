package main

import (
	"errors"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

// maxPassword bounds a password, in bytes.
const maxPassword = 4096

// addPasswordFile gives a command the flag that withPassword reads.
func addPasswordFile(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "password-file", "", "`file` with the password for the user in ADDRESS; -: ask for it, or read standard input")
}

// withPassword puts the password from a file into an address for the agent, which stores it
// separately and never shows it. An address with a password is refused: every user can read
// the command line of a process, proc_pid_cmdline(5), and shells keep it.
func (a *app) withPassword(address, file string) (string, error) {
	if !strings.Contains(address, "://") {
		if file != "" {
			return "", output.Error(errkind.Usage, "a password is only used with an http or https address")
		}
		return address, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		// The library's error text contains the address.
		return "", output.Error(errkind.Invalid, "its address is no URL")
	}
	if _, secret := u.User.Password(); secret {
		return "", output.Error(errkind.Usage, "a password on the command line can be read by every user of the machine").
			WithHint("name the user alone (https://USER@…), and give the password with --password-file=FILE, or --password-file=- to be asked for it")
	}
	if file == "" {
		return address, nil
	}
	if u.User.Username() == "" {
		return "", output.Error(errkind.Usage, "the address does not name the user of the password").WithHint("write it as https://USER@…")
	}
	password, err := a.readPassword(file)
	if err != nil {
		return "", output.Error(errkind.Invalid, "the password cannot be read: %w", err)
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String(), nil
}

// asks reports whether a person is at the terminal.
func (a *app) asks() bool {
	in, isFile := a.stdin.(*os.File)
	return isFile && term.IsTerminal(int(in.Fd()))
}

func (a *app) readPassword(file string) (string, error) {
	return a.readSecret(file, output.T("Password: "))
}

// readSecret reads one line from a file, or for "-" from the terminal without echo, or else
// from standard input.
func (a *app) readSecret(file, prompt string) (string, error) {
	var text []byte
	switch {
	case file != "-":
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if text, err = io.ReadAll(io.LimitReader(f, maxPassword+1)); err != nil {
			return "", err
		}
	case a.asks():
		a.Prompt(prompt)
		var err error
		text, err = term.ReadPassword(int(a.stdin.(*os.File).Fd()))
		a.Prompt("\n")
		if err != nil {
			return "", err
		}
	default:
		var err error
		if text, err = io.ReadAll(io.LimitReader(a.stdin, maxPassword+1)); err != nil {
			return "", err
		}
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case password == "":
		return "", errors.New(output.T("it is empty"))
	case len(text) > maxPassword:
		return "", errors.New(output.T("it is longer than %d bytes", maxPassword))
	case strings.ContainsAny(password, "\n\r\x00"):
		return "", errors.New(output.T("it has more than one line"))
	}
	return password, nil
}
