package publish_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/e2e/require"
)

func pass(text string) cryptoutils.PassFunc { return cryptoutils.StaticPasswordFunc([]byte(text)) }

func publishWith(t *testing.T, dir string, c publish.Common) error {
	t.Helper()
	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n"}), publish.Options{Common: c})
	return err
}

// TestEncryptedKeys: keys with a passphrase sign with it alone, and so do those of a rotation.
func TestEncryptedKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repository")
	secret := publish.Common{Passphrase: pass("correct horse"), Encrypt: true}
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{Common: secret}))
	for _, role := range publish.Roles {
		data, err := os.ReadFile(dir + ".keys/" + role + ".pem")
		must(t, err)
		if !bytes.HasPrefix(data, []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")) {
			t.Errorf("%s: got a key that begins with %.60q, want an encrypted one", role, data)
		}
	}
	c := open(t, dir)
	must(t, c.Update(t.Context()))
	if err := publishWith(t, dir, publish.Common{}); !errkind.Is(err, errkind.NotPermitted) || errkind.HintOf(err) == "" {
		t.Errorf("without a passphrase: %v", err)
	}
	if err := publishWith(t, dir, publish.Common{Passphrase: pass("wrong")}); !errkind.Is(err, errkind.NotPermitted) || !strings.Contains(err.Error(), "the passphrase is wrong") {
		t.Errorf("with a wrong passphrase: got %v, want an error of kind %v and %q in the error", err, errkind.NotPermitted, "the passphrase is wrong")
	}
	must(t, publishWith(t, dir, publish.Common{Passphrase: secret.Passphrase}))
	must(t, publish.Rotate(t.Context(), dir, publish.RotateOptions{Common: secret, Roles: []string{"targets"}}))
	if err := publishWith(t, dir, publish.Common{}); !errkind.Is(err, errkind.NotPermitted) {
		t.Errorf("after a rotation: got %v, want an error of kind %v", err, errkind.NotPermitted)
	}
	must(t, c.Update(t.Context()))
}

// TestKeyFromCredential: a unit re-signs the timestamp with a key that systemd gives to it.
func TestKeyFromCredential(t *testing.T) {
	dir, credentials := initRepo(t), t.TempDir()
	for _, role := range publish.Roles {
		to := t.TempDir()
		if role == "timestamp" {
			to = credentials
		}
		must(t, os.Rename(dir+".keys/"+role+".pem", to+"/"+role+".pem"))
	}
	must(t, os.Chmod(credentials+"/timestamp.pem", 0o440)) // an ACL shows as the group's right
	if err := publish.Resign(t.Context(), dir, publish.ResignOptions{}); err == nil {
		t.Error("signed without a key")
	}
	must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{Common: publish.Common{Credentials: credentials}}))
	must(t, open(t, dir).Update(t.Context()))
}

// TestSignerCommand: OpenSSL signs with a key that lull never reads.
func TestSignerCommand(t *testing.T) {
	require.Program(t, "openssl", "sh")
	dir := filepath.Join(t.TempDir(), "repository")
	keys, token := dir+".keys", filepath.Join(t.TempDir(), "token.pem")
	must(t, os.Mkdir(keys, 0o700))
	for _, argv := range [][]string{
		{"openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", token},
		{"openssl", "pkey", "-in", token, "-pubout", "-out", keys + "/targets.pub"},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	command := func(argv ...string) {
		t.Helper()
		must(t, os.WriteFile(keys+"/targets.command", []byte(strings.Join(argv, "\n")+"\n"), 0o600))
	}
	genuine := []string{"openssl", "dgst", "-sha256", "-sign", token}
	command(genuine...)
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{UseKeys: true}))
	c := open(t, dir)
	must(t, publishWith(t, dir, publish.Common{}))
	must(t, c.Update(t.Context()))
	if _, err := os.Lstat(keys + "/targets.pem"); err == nil {
		t.Error("a private key was made")
	}

	before, err := os.ReadFile(dir + "/metadata/timestamp.json")
	must(t, err)
	for what, bad := range map[string]struct {
		argv []string
		want string
	}{
		"it fails":         {[]string{"sh", "-c", "echo the token is locked >&2; exit 3"}, "the token is locked"},
		"it signs nothing": {[]string{"true"}, "no signature of its public key"},
		"it signs wrongly": {[]string{"sh", "-c", "echo x | openssl dgst -sha256 -sign " + token}, "no signature of its public key"},
		"endless output":   {[]string{"sh", "-c", "head -c 100000000 /dev/zero"}, "no signature of its public key"},
		"no such program":  {[]string{"/nowhere/sign"}, "/nowhere/sign"},
		"nothing":          {[]string{""}, "it names no program"},
	} {
		command(bad.argv...)
		if err := publishWith(t, dir, publish.Common{}); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v; want an error and %q in the error", what, err, bad.want)
		}
	}
	command(genuine...)
	must(t, os.Chmod(keys+"/targets.command", 0o620))
	if err := publishWith(t, dir, publish.Common{}); err == nil || !strings.Contains(err.Error(), "others can write it") {
		t.Error(err)
	}
	must(t, os.Chmod(keys+"/targets.command", 0o600))
	if after, _ := os.ReadFile(dir + "/metadata/timestamp.json"); !bytes.Equal(after, before) {
		t.Error("something was published")
	}
	if err := publish.Rotate(t.Context(), dir, publish.RotateOptions{}); !errkind.Is(err, errkind.Conflict) {
		t.Errorf("a rotation of the token's key: got %v, want an error of kind %v", err, errkind.Conflict)
	}
	must(t, publish.Rotate(t.Context(), dir, publish.RotateOptions{Roles: []string{"root", "snapshot", "timestamp"}}))
	must(t, publishWith(t, dir, publish.Common{}))
	must(t, c.Update(t.Context()))
}

// TestThreshold: a signature needs as many keys as the root says, and any of them do.
func TestThreshold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repository")
	keys := dir + ".keys/"
	for _, c := range []publish.Count{{0, 1}, {2, 1}, {1, 17}} {
		if err := publish.Init(t.Context(), dir, publish.InitOptions{Counts: map[string]publish.Count{"root": c}}); !errkind.Is(err, errkind.Usage) {
			t.Errorf("%+v: %v; want an error of kind %v", c, err, errkind.Usage)
		}
	}
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{Counts: map[string]publish.Count{"root": {2, 3}, "targets": {2, 2}}}))
	c := open(t, dir)
	must(t, c.Update(t.Context()))
	must(t, publishWith(t, dir, publish.Common{}))
	must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{Bins: true})) // bins need both keys of the targets, too
	must(t, publishWith(t, dir, publish.Common{}))
	must(t, c.Update(t.Context()))

	must(t, os.Rename(keys+"root.pem", keys+"away.root")) // any two of the three
	must(t, publish.Rotate(t.Context(), dir, publish.RotateOptions{Roles: []string{"targets", "snapshot"}}))
	must(t, publishWith(t, dir, publish.Common{}))
	must(t, c.Update(t.Context()))
	must(t, os.Rename(keys+"root.2.pem", keys+"away.root2"))
	if err := publish.Rotate(t.Context(), dir, publish.RotateOptions{Roles: []string{"snapshot"}}); err == nil || !strings.Contains(err.Error(), "it needs 2 keys, and "+strings.TrimSuffix(keys, "/")+" has 1") {
		t.Error(err)
	}
	must(t, os.Rename(keys+"targets.2.pem", keys+"away.targets2"))
	if err := publishWith(t, dir, publish.Common{}); err == nil || !strings.Contains(err.Error(), "cannot sign targets metadata: it needs 2 keys") {
		t.Error(err)
	}
	must(t, os.Rename(keys+"away.targets2", keys+"targets.2.pem"))
	must(t, os.Rename(keys+"away.root2", keys+"root.2.pem"))
	must(t, os.Rename(keys+"away.root", keys+"root.pem"))
	must(t, publish.Rotate(t.Context(), dir, publish.RotateOptions{}))
	must(t, publishWith(t, dir, publish.Common{}))
	must(t, c.Update(t.Context()))
}
