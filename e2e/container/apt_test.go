package container_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
)

// makeVendor makes a flat apt repository with a package in a version. %[1]s is the version.
const makeVendor = `
rm -rf /srv/vendor/tree && mkdir -p /srv/vendor/tree/DEBIAN /srv/vendor/tree/usr/bin && cd /srv/vendor
printf '#!/bin/sh\necho "vendor %[1]s"\n' >tree/usr/bin/vendor
printf '#!/bin/sh\ntouch /srv/vendor/ran\n' >tree/DEBIAN/postinst
chmod 755 tree/usr/bin/vendor tree/DEBIAN/postinst
printf 'Package: vendor\nVersion: %[1]s\nArchitecture: all\nMaintainer: V <v@example.org>\nDescription: A vendor\n' >tree/DEBIAN/control
dpkg-deb --root-owner-group --build tree vendor_%[1]s.deb >/dev/null
{ cat tree/DEBIAN/control; echo "Filename: ./vendor_%[1]s.deb"; echo "Size: $(stat -c %%s vendor_%[1]s.deb)"; echo "SHA256: $(sha256sum <vendor_%[1]s.deb | cut -d' ' -f1)"; } >Packages
echo "$(sha256sum <Packages | cut -d' ' -f1) $(stat -c %%s Packages) Packages"`

// publishVendor makes a version of it, and signs it.
func publishVendor(t *testing.T, key *openpgp.Entity, version string) {
	t.Helper()
	index := strings.TrimSpace(sh(t, makeVendor, version))
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, key.PrivateKey, nil)
	if err == nil {
		_, err = fmt.Fprintf(w, "Date: %s\nSHA256:\n %s\n", time.Now().UTC().Format(time.RFC1123), index)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		_, err = io.WriteString(&signed, "\n")
	}
	if err == nil {
		err = os.WriteFile("/srv/vendor/InRelease", signed.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestApt: below the sandbox of the real unit, and by the agent of a user, a package of an
// apt repository is followed.
func TestApt(t *testing.T) {
	here(t)
	installed(t)
	sh(t, "mkdir -p /srv/vendor")
	defer sh(t, "rm -rf /srv/vendor")
	key, err := openpgp.NewEntity("Vendor", "", "vendor@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create("/srv/vendor/key.gpg")
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Serialize(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	const add = "repo add --apt 'deb [signed-by=/srv/vendor/key.gpg] file:///srv/vendor ./' vendor"
	publishVendor(t, key, "1.0")
	if out := sh(t, "lull %s && lull install vendor && lull run vendor", add); !strings.HasSuffix(out, "vendor 1.0") {
		t.Errorf("got %s, want output that ends with %q", out, "vendor 1.0")
	}
	publishVendor(t, key, "2.0")
	if out := sh(t, "lull refresh vendor && lull run vendor"); !strings.HasSuffix(out, "vendor 2.0") {
		t.Errorf("got %s, want output that ends with %q", out, "vendor 2.0")
	}
	user := as("tester")
	sh(t, "%[1]ssystemctl --user daemon-reload && %[1]ssystemctl --user start lulld", user)
	if out := sh(t, "%[1]slull --user %[2]s && %[1]slull --user install vendor && %[1]slull --user run vendor", user, add); !strings.HasSuffix(out, "vendor 2.0") {
		t.Errorf("got %s, want output that ends with %q", out, "vendor 2.0")
	}
	sh(t, "%[1]slull --user remove --purge vendor; %[1]slull --user repo remove vendor; %[1]ssystemctl --user stop lulld", user)
	sh(t, "test ! -e /srv/vendor/ran && test $(stat -c %%a:%%U /var/lib/lull/apt/vendor) = 700:root")
	sh(t, "lull remove --purge vendor && lull repo remove vendor")
}
