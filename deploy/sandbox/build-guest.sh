#!/usr/bin/env bash
# Builds steward-guest as one static file and prints its path. Does nothing if the build is up to date.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
triple="$(uname -m)-unknown-linux-gnu"
# The guest has a target directory of its own, because it is built with other flags and must not wait for the
# lock of another build.
target=${STEWARD_GUEST_TARGET_DIR:-${CARGO_TARGET_DIR:-$root/target}/guest}

cd "$root"
CARGO_TARGET_DIR=$target RUSTFLAGS="-C target-feature=+crt-static" \
  cargo build --quiet --profile guest --package steward-guest --target "$triple" >&2

guest=$target/$triple/guest/steward-guest
if ldd "$guest" 2>/dev/null | grep -q '=>'; then
  echo "build-guest: $guest is not static" >&2
  exit 1
fi
echo "$guest"
