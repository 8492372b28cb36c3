#!/usr/bin/env bash
# Builds the sandbox image without any registry and prints its name. Does nothing if the image exists.
#
#   build-image.sh [debian|busybox]
#
# debian   Debian minbase with coreutils, python3 and git, made by debootstrap, which needs root and a Debian
#          mirror; where it cannot run, the busybox image is built instead and a progress line says so.
# busybox  one static binary: small, quick to build, used by tests.
#
# The name has a hash of all inputs, so that a change in this directory makes a new image.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
flavour=${1:-debian}
suite=bookworm
packages=coreutils,python3-minimal,python3,git,ca-certificates,curl,procps,less
mirror=${STEWARD_DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() { printf '[%4ds] sandbox image: %s\n' "$SECONDS" "$*" >&2; }
fail() { say "$*"; exit 1; }

case $flavour in
  debian) ingredients="$suite $packages" ;;
  busybox) ingredients=$(busybox 2>/dev/null | head -n 1 || true) ;;
  *) fail "unknown flavour '$flavour': debian or busybox" ;;
esac

hash=$(cat "$here/Dockerfile" "$here/build-image.sh" - <<<"$ingredients" | sha256sum | cut -c1-12)
image=steward-sandbox:$flavour-$hash
base=steward-sandbox-base:$flavour-$hash

# Two concurrent builds of one image would race for the tag.
exec 9>"${TMPDIR:-/tmp}/steward-sandbox-image-$flavour.lock"
flock 9

if docker image inspect "$image" >/dev/null 2>&1; then
  say "$image is there"
  echo "$image"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make_debian() {
  [ "$(id -u)" = 0 ] || { say "debootstrap needs root"; return 1; }
  command -v debootstrap >/dev/null || { say "debootstrap is not installed"; return 1; }
  say "debootstrap $suite (a minute or two)"
  debootstrap --variant=minbase --include="$packages" "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 ||
    { say "debootstrap failed: $(tail -n 1 "$work/log")"; return 1; }
  rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* \
    "$work"/root/usr/share/{doc,man,locale,info}/*
}

make_busybox() {
  local busybox
  busybox=$(command -v busybox) || fail "busybox is not installed (package busybox-static)"
  if ldd "$busybox" 2>/dev/null | grep -q '=>'; then
    fail "$busybox is not static (package busybox-static)"
  fi
  mkdir -p "$work"/root/{bin,etc,usr/bin}
  cp "$busybox" "$work/root/bin/busybox"
  "$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$work/root/bin/$applet"
  done
  # Scripts expect `env` here.
  ln -s /bin/env "$work/root/usr/bin/env"
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$work/root/etc/passwd"
  printf 'root:x:0:\n' >"$work/root/etc/group"
}

if ! docker image inspect "$base" >/dev/null 2>&1; then
  if [ "$flavour" = debian ] && ! make_debian; then
    say "falling back to busybox"
    rm -rf "$work"
    exec "$0" busybox 9>&-
  fi
  [ "$flavour" = debian ] || make_busybox
  say "import $(du -sm "$work/root" | cut -f1) MB"
  tar -C "$work/root" --numeric-owner -c . | docker import - "$base" >/dev/null
fi

say "build $image"
mkdir "$work/context"
# The classic builder needs no plugin and accepts a base that is in no registry.
DOCKER_BUILDKIT=0 docker build --quiet --network none --build-arg BASE="$base" \
  --file "$here/Dockerfile" --tag "$image" "$work/context" >"$work/log" 2>&1 ||
  fail "docker build: $(cat "$work/log")"
say "done"
echo "$image"
