# lull. `make` alone prints the targets.

BIN     ?= bin
TAGS    ?=
S       ?= 60
N       ?= 60
DAYS    ?= 100
LAUNCHES ?= 30
ID      ?=
SAMPLES ?= 50
DESTDIR ?=
PREFIX  ?= /usr
VERSION ?= 0.1.0
DIST    ?= dist
FORMATS ?= deb rpm
# Programs that this machine can run, where those in BIN are for another one.
ASK     ?= $(BIN)

GO ?= go
CC ?= cc

# The needs of the demonstration besides Go and make, and those of the tests
# alone, as PROGRAM:PACKAGE of Debian or LIBRARY:PACKAGE. Existing programs are
# not installed again. The libraries let notices show icons, and let a real Firefox
# in two versions run.
DEMO_NEEDS := cc:gcc /usr/include/stdio.h:libc6-dev dbus-daemon:dbus-daemon busctl:systemd gdbus:libglib2.0-bin \
	Xvfb:xvfb dunst:dunst import:imagemagick xdotool:xdotool unshare:util-linux script:bsdutils setpriv:util-linux \
	librsvg-2.so.2:librsvg2-common fc-list:fontconfig /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core
TEST_NEEDS := $(DEMO_NEEDS) git:git openssl:openssl prometheus:prometheus promtool:prometheus prometheus-node-exporter:prometheus-node-exporter ps:procps ip:iproute2 dbus-run-session:dbus-daemon notify-send:libnotify-bin \
	systemd-nspawn:systemd-container debootstrap:debootstrap spin:spin mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs \
	mkfs.btrfs:btrfs-progs bindfs:bindfs fusermount3:fuse3 setfattr:attr /usr/lib/python3/dist-packages/dbusmock:python3-dbusmock /usr/lib/python3/dist-packages/gi:python3-gi /usr/lib/python3/dist-packages/dbus_next:python3-dbus-next /usr/lib/polkit-1/polkitd:polkitd \
	libgtk-3.so.0:libgtk-3-0|libgtk-3-0t64 libvpx.so.[0-9]*:libvpx7|libvpx9|libvpx11|libvpx12 libasound.so.2:libasound2|libasound2t64 libX11-xcb.so.1:libx11-xcb1 \
	libevent-2.1.so.7:libevent-2.1-7|libevent-2.1-7t64 \
	qemu-system-x86_64:qemu-system-x86 depmod:kmod /usr/lib/x86_64-linux-gnu/xfce4/notifyd/xfce4-notifyd:xfce4-notifyd xfconf-query:xfconf openbox:openbox mousepad:mousepad xmessage:x11-utils xprop:x11-utils dbus-broker-launch:dbus-broker \
	gsettings:libglib2.0-bin gio:libglib2.0-bin desktop-file-validate:desktop-file-utils xdg-mime:xdg-utils update-mime-database:shared-mime-info gdk-pixbuf-csource:libgdk-pixbuf2.0-bin cupsd:cups-daemon lpadmin:cups-client man:man-db zsh:zsh fish:fish /usr/share/glib-2.0/schemas/org.gnome.desktop.notifications.gschema.xml:gsettings-desktop-schemas \
	/usr/libexec/dconf-service:dconf-service /usr/lib/x86_64-linux-gnu/gio/modules/libdconfsettings.so:dconf-gsettings-backend \
	mksquashfs:squashfs-tools mandoc:mandoc groff:groff-base lintian:lintian rpm:rpm appstreamcli:appstream \
	gpg:gpg gpg-agent:gpg-agent apt-ftparchive:apt-utils nginx:nginx-light tinyproxy:tinyproxy-bin microsocks:microsocks \
	lz4:lz4 zip:zip python3:python3 xz:xz-utils zstd:zstd bsdiff:bsdiff bspatch:bsdiff
BENCH_NEEDS := $(TEST_NEEDS) ostree:ostree nix-store:nix-bin casync:casync xdelta3:xdelta3 bwrap:bubblewrap flatpak:flatpak podman:podman crun:crun runc:runc
ARM64_NEEDS := $(TEST_NEEDS) aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64-static:qemu-user-static

# Linters, at these versions, come through the module proxy.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
DEPGUARD    := github.com/OpenPeeDeeP/depguard/v2/cmd/depguard@v2.3.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0

# The program that makes the packages. Later versions need modules that the proxy does not give out.
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0

# The version that the programs print.
VERSIONS := -X main.version=$(VERSION) -X github.com/lull/lull/userd.version=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build demo test e2e model hardening stress week powercut fleet bench check quick-check race vuln clean-tree fuzz install install-user packages docs desktops arm64 skew nightly deps deps-bench deps-demo deps-arm64 clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build all programs into bin/ (BIN=FOLDER, TAGS=faultpoint)
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -tags '$(TAGS)' -ldflags '-s -w $(VERSIONS)' -o $(BIN)/ ./cmd/...
	CC='$(CC)' sh cmd/lull-release-agent/build.sh $(BIN)/lull-release-agent
	CC='$(CC)' sh cmd/lull-layout/build.sh $(BIN)/lull-layout

demo: deps-demo build ## show a running application being refreshed, in a scratch folder (two minutes)
	@LULL_BIN='$(abspath $(BIN))' $(GO) run ./e2e/demo

run-tests = @GO='$(GO)' LULL_BIN='$(abspath $(BIN))' sh .ci/tests $(1)

test: deps build ## run all tests
	$(call run-tests,./...)

e2e: deps build ## run the tests on whole machines alone: stories, containers, kills, real input
	$(call run-tests,./e2e/...)

model: ## check the model of the launch protocol with spin, and that its mutants fail
	$(GO) test -count=1 -v ./agent/refresh/model

hardening: deps build ## attack an installed lull, and measure what others wait: docs/hardening.md (SAMPLES=50)
	LULL_BIN='$(abspath $(BIN))' LULL_HARDENING='$(abspath docs/hardening.md)' LULL_HARDENING_N=$(SAMPLES) $(GO) test -count=1 -timeout 30m -v ./e2e/hostile -run '^TestHardening$$'

stress: deps build ## launches, refreshes and kills without a pause (S=60 seconds)
	LULL_BIN='$(abspath $(BIN))' LULL_STRESS=$(S) $(GO) test -count=1 -timeout 24h -v ./e2e/stress

week: deps build ## the life of five applications, refreshes, reverts and a purge (DAYS=100)
	LULL_BIN='$(abspath $(BIN))' LULL_WEEK=$(DAYS) $(GO) test -count=1 -timeout 24h -v ./e2e/week

fleet: N = 1000
fleet: deps ## a repository and its machines through eight days: docs/fleet.md (N=1000 machines)
	LULL_FLEET=$(N) LULL_FLEET_DOCS='$(abspath docs)' $(GO) test -count=1 -timeout 2h -v ./e2e/fleet

# Built first, because `go test` would add a line to the counts.
powercut: deps build ## cut the power of whole machines in the middle of work (N=60 times, SEED= to repeat)
	@t=$$(mktemp) && $(GO) test -c -o $$t ./e2e/powercut && \
	(cd e2e/powercut && LULL_POWERCUT=$(N) $$t -test.v -test.timeout=48h $(if $(SEED),-seed=$(SEED))); code=$$?; rm -f $$t; exit $$code

bench: deps-bench build ## measure beside the peers: docs/bench.json, docs/bench.svg (ID=ROW: one row)
	LULL_BIN='$(abspath $(BIN))' $(GO) run ./e2e/bench -id '$(ID)'

check: quick-check vuln race clean-tree ## generate, vet, lint, layers, vulnerabilities, race tests, clean tree

quick-check: # what needs no tests
	$(GO) generate ./...
	@test -z "$$(gofmt -l .)" || { echo "these files want gofmt:"; gofmt -l .; exit 1; }
	$(GO) mod verify
	$(GO) vet ./...
	$(GO) vet -tags faultpoint ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(DEPGUARD) ./...

# The database of known vulnerabilities is asked over the network; where it
# cannot be reached the check says so and is left out.
vuln:
	@out=$$(mktemp); if $(GO) run $(GOVULNCHECK) ./... >$$out 2>&1; then echo "govulncheck: nothing found"; \
	elif grep -q 'fetching vulnerabilities' $$out; then echo "govulncheck: left out, its database cannot be reached"; \
	else cat $$out; rm -f $$out; exit 1; fi; rm -f $$out

# The race detector makes everything several times slower: it is for the
# packages, not for the stories, whose programs are built without it.
race:
	@CGO_ENABLED=1 GO='$(GO)' FLAGS='-race -short -p 2 -timeout 20m' sh .ci/tests $$($(GO) list ./... | grep -v /e2e/)

clean-tree:
	@if git rev-parse --git-dir >/dev/null 2>&1 && test -n "$$(git status --porcelain)"; then \
		echo "the work tree is not clean:"; git status --porcelain; git diff --stat; exit 1; fi

desktops: deps build ## open and refresh an application on GNOME, Plasma and sway; pictures in docs/pictures (LAUNCHES=30)
	LULL_BIN='$(abspath $(BIN))' LULL_DESKTOPS=1 LULL_LAUNCHES=$(LAUNCHES) LULL_PICTURES='$(abspath docs/pictures)' $(GO) test -count=1 -timeout 6h -v ./e2e/desktops

skew: deps build ## programs of an earlier version (OLD=REVISION, by default of a week ago) and of this one together
	@old=$$(mktemp -d) && trap 'rm -rf "$$old"' EXIT && \
	rev='$(OLD)' && rev=$${rev:-$$(git rev-list -1 --before=7.days HEAD)} && git archive "$$rev" | tar -x -C "$$old" && \
	$(MAKE) --no-print-directory -C "$$old" build BIN="$$old/bin" && \
	LULL_BIN='$(abspath $(BIN))' LULL_OLD="$$old/bin" $(GO) test -count=1 -timeout 1h -v ./e2e/skew

arm64: deps-arm64 build ## make the packages for arm64 in dist/, and run them under emulation
	$(MAKE) --no-print-directory packages GOARCH=arm64 CC=aarch64-linux-gnu-gcc BIN='$(DIST)/arm64' ASK='$(BIN)'
	LULL_ARM64='$(abspath $(DIST))' $(GO) test -count=1 -timeout 2h -v ./e2e/arm64

nightly: S = 3600
nightly: N = 1000
nightly: LAUNCHES = 1000
nightly: deps-arm64 build ## what is too long for every run: sid, desktops, soaks, arm64; a table at the end
	@MAKE='$(MAKE)' GO='$(GO)' LULL_BIN='$(abspath $(BIN))' S='$(S)' N='$(N)' LAUNCHES='$(LAUNCHES)' sh .ci/nightly

fuzz: ## fuzz everything that parses (S=60 seconds in all)
	@set -e; targets=$$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | wc -l); \
	each=$$(( $(S) / (targets > 0 ? targets : 1) )); test $$each -gt 0 || each=1; \
	for dir in $$(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go | cut -d' ' -f2); do \
			echo "$$dir $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${each}s $$dir; \
		done; \
	done

install: build ## install everything below DESTDIR (PREFIX=/usr)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' BIN='$(BIN)' ASK='$(ASK)' GO='$(GO)' units/install

install-user: build ## install for the calling user alone, without root (docs/rootless.md)
	@BIN='$(BIN)' units/install-user

# Times in packages are those of the source, so that the same source makes the same packages.
packages: build ## make .deb and .rpm in dist/ (VERSION=0.1.0, DIST=FOLDER)
	@tree=$$(mktemp -d) && chmod 0755 $$tree && trap 'rm -rf "$$tree"' EXIT && \
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)} && export SOURCE_DATE_EPOCH && \
	DESTDIR=$$tree PREFIX=/usr BIN='$(BIN)' ASK='$(ASK)' GO='$(GO)' units/install && \
	VERSION='$(VERSION)' ARCH="$$($(GO) env GOARCH)" TREE=$$tree OUT='$(DIST)' FORMATS='$(FORMATS)' NFPM='env -u GOARCH -u CC $(GO) run $(NFPM)' units/package/make

docs: build ## make the manual pages in dist/man, and what is generated in docs/
	$(GO) generate ./dbus
	$(GO) run ./docs/manual -bin '$(BIN)' -to '$(DIST)/man'

deps: ## install what the tests need, by apt (as root; else it prints the command)
	@NEEDS='$(TEST_NEEDS)' sh .ci/deps

deps-bench:
	@NEEDS='$(BENCH_NEEDS)' sh .ci/deps

deps-arm64:
	@NEEDS='$(ARM64_NEEDS)' sh .ci/deps

deps-demo:
	@NEEDS='$(DEMO_NEEDS)' sh .ci/deps

clean: ## remove what build has made
	rm -rf $(BIN) $(DIST)
