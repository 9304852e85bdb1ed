#!/bin/sh
# Builds lull-layout: build.sh OUTPUT. CC and CFLAGS are honoured, so
# that CC=aarch64-linux-gnu-gcc builds for the other machine.
set -eu
exec ${CC:-cc} ${CFLAGS:-} -std=gnu11 -Wall -Wextra -Werror -Os -static -nostdlib -nostartfiles \
	-ffreestanding -fno-stack-protector -fno-builtin -fno-asynchronous-unwind-tables -fno-pie -no-pie \
	-fno-tree-loop-distribute-patterns -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,norelro -Wl,-z,noseparate-code -s \
	-o "$1" "$(dirname "$0")/layout.c"
