# Everything is built, tested and installed by these targets; `make help` lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c
PREFIX      ?= /usr/local
DESTDIR     ?=
UNITDIR     ?= $(PREFIX)/lib/systemd/system
# NetworkManager runs what lies below /usr/lib or /etc, and nothing else; Debian's zsh
# looks for a package's completions elsewhere than for those of /usr/local.
NMDIR       ?= $(if $(filter /usr,$(PREFIX)),/usr/lib,/etc)/NetworkManager/dispatcher.d
ZSHDIR      ?= $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
# The pool that a build asks where nothing is configured. The pool's terms let
# only the owner of a vendor zone set it: a plain build has none.
POOL        ?=
VERSION     ?= $(shell cat packaging/version)
# A tree without git is no part of the repository that it may lie in.
GIT         := $(if $(wildcard .git),git,false)
COMMIT      ?= $(shell $(GIT) rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

TESTFLAGS   ?=
FUZZTIME    ?= 10s
BENCHTIME   ?= 1s
# How many worlds of each profile bench-clock runs side by side, and how long.
SEEDS       ?= 20
LENGTH      ?= 40m
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2# 2026.2.2

# The daemon sets no clock to before this: the changelog's date in a package, the
# commit's elsewhere, so that a build can be repeated.
DATE    := $(shell date -u -d @$${SOURCE_DATE_EPOCH:-$$($(GIT) log -1 --format=%ct 2>/dev/null)} +%FT%TZ 2>/dev/null)

LDFLAGS := -s -w -X main.buildVersion=$(VERSION) -X main.buildCommit=$(COMMIT) -X main.buildDate=$(DATE) \
           -X ntpveil/guard/config.DefaultPool=$(POOL)
# -race needs a C compiler; without one the tests run all the same.
RACE    := $(if $(shell command -v gcc),-race)
# Kernel tests want a kernel of their own: root has one, others get one from
# a user namespace, and where that is forbidden too these tests say so and skip.
ASROOT  := $(if $(filter-out 0,$(shell id -u)),$(shell unshare -rn true 2>/dev/null && echo unshare -rn))

MAN   := dist/man/ntpveil.8 dist/man/ntpveil.toml.5 dist/man/ntpveil-preset.5
SHELLS := bash zsh fish

.DEFAULT_GOAL := help
.PHONY: help build demo setup test check lint fuzz bench bench-clock bench-rules man completions install deb clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the static binary bin/ntpveil (POOL=2.vendor.pool.ntp.org sets the default pool)
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ntpveil ./cmd/ntpveil

demo: build ## replay the 2016 harvest in throw-away namespaces, without and with the guard
	bin/ntpveil demo $(DEMOFLAGS)

setup: ## install what the tests need (as root on Debian; elsewhere say what is missing)
	packaging/setup

test: setup ## run every test, those against the kernel and real peers too
	go vet ./...
	PATH="$$(packaging/setup --path)" $(ASROOT) go test $(RACE) -shuffle=on -parallel 6 -timeout 12m $(TESTFLAGS) ./...

check: ## gofmt, go vet and staticcheck
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt wants: $$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

lint: check ## the same as check

fuzz: ## run every fuzz target for FUZZTIME
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r dirname | sort -u); do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
			echo "$$dir $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
		done; \
	done

bench: ## run the benchmarks
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

bench-clock: setup ## measure ntpveil's clock against chronyd's (SEEDS worlds a profile, LENGTH each, side by side)
	PATH="$$(packaging/setup --path)" $(ASROOT) go test ./guard/lab/clockbench -v -run '^TestBenchClock$$' -timeout 0 \
		-args -bench-clock -seeds $(SEEDS) -length $(LENGTH)

bench-rules: setup ## measure what the rules cost, against no table, nft -f and the layouts of peers
	PATH="$$(packaging/setup --path)" $(ASROOT) go test ./guard/nft -v -run '^TestBenchRules$$' -timeout 0 -args -bench-rules

man: $(MAN) ## build the man pages (needs scdoc)

dist/man/%: packaging/%.scd
	@mkdir -p dist/man
	@command -v scdoc >/dev/null || { echo 'scdoc is missing: apt-get install scdoc'; exit 1; }
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(stat -c %Y $<)} scdoc < $< > $@.new && mv $@.new $@

completions: build ## build the shell completions
	@mkdir -p dist/completions
	@set -e; for shell in $(SHELLS); do bin/ntpveil completion $$shell > dist/completions/$$shell; done

install: build man completions ## install below DESTDIR and PREFIX; nothing is started or enabled
	install -D -m 0755 bin/ntpveil '$(DESTDIR)$(PREFIX)/bin/ntpveil'
	install -D -m 0644 dist/man/ntpveil.8 '$(DESTDIR)$(PREFIX)/share/man/man8/ntpveil.8'
	install -D -m 0644 dist/man/ntpveil.toml.5 '$(DESTDIR)$(PREFIX)/share/man/man5/ntpveil.toml.5'
	install -D -m 0644 dist/man/ntpveil-preset.5 '$(DESTDIR)$(PREFIX)/share/man/man5/ntpveil-preset.5'
	install -D -m 0644 dist/completions/bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/ntpveil'
	install -D -m 0644 dist/completions/zsh '$(DESTDIR)$(ZSHDIR)/_ntpveil'
	install -D -m 0644 dist/completions/fish '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ntpveil.fish'
	for unit in ntpveil.service ntpveil-wait-sync.service ntpveil-companion.service ntpveil-companion-online.service; do \
		sed 's|/usr/bin/ntpveil|$(PREFIX)/bin/ntpveil|' systemd/$$unit | \
			install -D -m 0644 /dev/stdin '$(DESTDIR)$(UNITDIR)'/$$unit || exit; \
	done
	install -D -m 0644 systemd/nftables.service.d/ntpveil-companion.conf '$(DESTDIR)$(UNITDIR)/nftables.service.d/ntpveil-companion.conf'
	install -D -m 0644 systemd/50-ntpveil.list '$(DESTDIR)$(PREFIX)/lib/systemd/ntp-units.d/50-ntpveil.list'
	install -D -m 0644 systemd/sysusers.conf '$(DESTDIR)$(PREFIX)/lib/sysusers.d/ntpveil.conf'
	install -D -m 0644 systemd/tmpfiles.conf '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/ntpveil.conf'
	packaging/third-party bin/ntpveil | install -D -m 0644 /dev/stdin '$(DESTDIR)$(PREFIX)/share/doc/ntpveil/third-party.txt'
	install -D -m 0644 packaging/dhcp/dhclient '$(DESTDIR)/etc/dhcp/dhclient-exit-hooks.d/ntpveil'
	install -D -m 0755 packaging/dhcp/networkmanager '$(DESTDIR)$(NMDIR)/50-ntpveil'
	for preset in rules/presets/*.toml; do \
		install -D -m 0644 $$preset '$(DESTDIR)$(PREFIX)'/share/ntpveil/presets/$${preset##*/} || exit; \
	done
	install -d '$(DESTDIR)/etc/ntpveil/conf.d' '$(DESTDIR)/etc/ntpveil/presets'
	test -e '$(DESTDIR)/etc/ntpveil/ntpveil.toml' || \
		install -m 0644 packaging/ntpveil.toml '$(DESTDIR)/etc/ntpveil/ntpveil.toml'

deb: ## build dist/ntpveil_*.deb, offline (POOL= sets another default pool than Debian's)
	POOL='$(POOL)' COMMIT='$(COMMIT)' packaging/build-deb

clean: ## remove what was built
	rm -rf bin dist
