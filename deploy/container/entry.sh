#!/bin/bash
# Runs a command with the compiled kernels of the image. Numba needs its cache in a folder it can write to, and the
# image may be read-only or belong to another user: so the cache is copied once to where this user may write.
set -euo pipefail
if [ -z "${NUMBA_CACHE_DIR:-}" ]; then
  NUMBA_CACHE_DIR=${TMPDIR:-/tmp}/overseg-numba-$(id -u)
  if [ ! -e "$NUMBA_CACHE_DIR" ]; then
    copy=$(mktemp -d "$NUMBA_CACHE_DIR.XXXXXX")
    cp -R "${OVERSEG_KERNELS:-/opt/overseg/kernels}/." "$copy"
    mv -T "$copy" "$NUMBA_CACHE_DIR" 2>/dev/null || rm -rf "$copy" # another process was first
  fi
  # Compiled code is run: not out of a folder that somebody else made.
  if [ ! -O "$NUMBA_CACHE_DIR" ] || [ -L "$NUMBA_CACHE_DIR" ]; then
    NUMBA_CACHE_DIR=$(mktemp -d "${TMPDIR:-/tmp}/overseg-numba.XXXXXX")
    cp -R "${OVERSEG_KERNELS:-/opt/overseg/kernels}/." "$NUMBA_CACHE_DIR"
  fi
  export NUMBA_CACHE_DIR
fi
exec "$@"
