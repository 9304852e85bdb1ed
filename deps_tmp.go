//go:build deps

package deps

import (
	_ "github.com/coreos/go-systemd/v22/activation"
	_ "github.com/coreos/go-systemd/v22/daemon"
	_ "github.com/coreos/go-systemd/v22/dbus"
	_ "github.com/coreos/go-systemd/v22/journal"
	_ "github.com/coreos/go-systemd/v22/login1"
	_ "github.com/dustin/go-humanize"
	_ "github.com/esiqveland/notify"
	_ "github.com/godbus/dbus/v5"
	_ "github.com/godbus/dbus/v5/introspect"
	_ "github.com/godbus/dbus/v5/prop"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/theupdateframework/go-tuf/v2/metadata"
	_ "github.com/theupdateframework/go-tuf/v2/metadata/config"
	_ "github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
	_ "github.com/theupdateframework/go-tuf/v2/metadata/updater"
	_ "github.com/vbauerster/mpb/v8"
	_ "go.etcd.io/bbolt"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
	_ "gopkg.in/yaml.v3"
	_ "pgregory.net/rapid"
)
