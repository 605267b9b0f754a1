#!/bin/sh
# Installs GLM Edge out of this folder, without a network:  sh install.sh [PREFIX]
#
# PREFIX is /opt/glm-edge for root, else ~/.local/lib/glm-edge. Needs one of the Pythons that the bundle was made for
# (PYTHON=/path/to/python3 names one) and the usual small programs, no pip, no venv module and no root. Run again, or out
# of a newer bundle, it upgrades. The work is done by glm_edge/tools/bundle/install in the wheel of GLM Edge.
set -eu
umask 022

fail() { # CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

case ${1-} in
  -*) fail 2 'usage: sh install.sh [PREFIX]' ;;
esac
[ $# -le 1 ] || fail 2 'usage: sh install.sh [PREFIX]'
prefix=${1-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)

[ -f "$here/SHA256SUMS" ] || fail 4 "$here/SHA256SUMS: is missing; copy the bundle again"
command -v sha256sum >/dev/null || fail 5 'no sha256sum: install coreutils'
echo 'checking the files of the bundle ...'
if ! said=$(cd -- "$here" && LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null); then
  bad=$(printf '%s\n' "$said" | while IFS= read -r line; do
    case $line in
      *': OK') ;;
      *) printf '%s\n' "${line%%: *}" && break ;;
    esac
  done)
  fail 4 "$here/${bad:-SHA256SUMS}: is damaged or missing; copy the bundle again"
fi

if [ -n "${PYTHON-}" ]; then
  set -- "$PYTHON"
else
  set -- python3 python3.13 python3.12 python3.11 python3.10
fi
python='' found='' wanted=''
for file in "$here"/requirements-*.txt; do
  version=${file##*/requirements-}
  wanted="$wanted${wanted:+ or }${version%.txt}"
done
for candidate; do
  path=$(command -v "$candidate" 2>/dev/null) || continue
  version=$("$path" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
  if [ -f "$here/requirements-$version.txt" ]; then
    python=$path
    break
  fi
  case $found in
    *"$path)"*) ;;
    *) found="$found${found:+, }$version ($path)" ;;
  esac
done
[ -n "$python" ] || fail 5 "this bundle is for Python $wanted; here is ${found:-none}; install one, or make a bundle for it"

set -- "$here"/wheels/glm_edge-*.whl
exec "$python" -I -c 'import sys
sys.path.insert(0, sys.argv.pop(1))
from glm_edge.tools.bundle.install.install import main
main()' "$1" "$here" ${prefix:+"$prefix"}
