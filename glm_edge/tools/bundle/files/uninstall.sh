#!/bin/sh
# Removes what install.sh installed:  sh uninstall.sh [PREFIX]
#
# Without PREFIX it is the folder that this script lies in, or the one that install.sh takes by itself. Conversations
# and models of your own stay, and every file in PREFIX that no bundle brought. Needs no Python.
set -eu

fail() { # CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

case ${1-} in
  -*) fail 2 'usage: sh uninstall.sh [PREFIX]' ;;
esac
[ $# -le 1 ] || fail 2 'usage: sh uninstall.sh [PREFIX]'
[ -n "${HOME-}" ] || fail 2 'HOME is not set'
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
if [ $# = 1 ]; then
  prefix=${1%/}
elif [ -f "$here/installed.txt" ]; then
  prefix=$here
elif [ "$(id -u)" = 0 ]; then
  prefix=/opt/glm-edge
else
  prefix=$HOME/.local/lib/glm-edge
fi
[ ! -L "$prefix" ] || fail 6 "$prefix: is a link; name the folder it leads to"
[ -d "$prefix" ] || fail 6 "$prefix: there is no such folder"
prefix=$(CDPATH='' cd -- "$prefix" && pwd -P)
list=$prefix/installed.txt
first=''
[ -L "$list" ] || ! [ -f "$list" ] || IFS= read -r first <"$list" || true
[ "$first" = 'GLM Edge installation 1' ] || fail 6 "$prefix: was not made by install.sh; nothing was removed"
[ -w "$prefix" ] || fail 6 "$prefix: cannot be written; run this as who installed it"

remove_service() { # UNIT [--user], where it runs from here
  unit=$1
  shift
  [ -f "$unit" ] || return 0
  while IFS= read -r line; do
    case $line in
      *"$prefix/env/"*)
        "$prefix/glm-edge" service remove --yes "$@" >/dev/null 2>&1 && return 0
        fail 6 "$unit: the service runs from $prefix; first: $prefix/glm-edge service remove${1+ $1}"
        ;;
    esac
  done <"$unit"
}
remove_service "$HOME/.config/systemd/user/glm-edge.service" --user
remove_service /etc/systemd/system/glm-edge.service

while IFS=' ' read -r kind path; do
  case $kind:$path in
    launcher:/*) # the link on the PATH, if it is still ours
      if [ -L "$path" ] && [ "$(readlink -- "$path")" = "$prefix/glm-edge" ]; then rm -f -- "$path"; fi
      ;;
    model:*/../* | model:../* | model:/*) ;;
    model:*)
      if [ ! -L "$prefix/models" ] && [ ! -L "$(dirname -- "$prefix/models/$path")" ]; then
        rm -f -- "$prefix/models/$path" "$prefix/models/$path".????????.tmp
      fi
      ;;
  esac
done <"$list"

for folder in "$prefix"/models/*.gguf.prefixes "$prefix/models"; do
  [ -L "$folder" ] || ! [ -d "$folder" ] || rmdir -- "$folder" 2>/dev/null || true
done
for folder in "$prefix"/env.????????; do
  [ -L "$folder" ] || ! [ -d "$folder" ] || rm -rf -- "$folder"
done
rm -f -- "$prefix/env" "$prefix/glm-edge" "$prefix/glm-edge.service" "$prefix/.glm-edge.lock"

# settings and caches of who runs this
config=${XDG_CONFIG_HOME:-$HOME/.config}/glm-edge
cache=${XDG_CACHE_HOME:-$HOME/.cache}/glm-edge
data=${XDG_DATA_HOME:-$HOME/.local/share}/glm-edge
for entry in "$config/default-model" /etc/glm-edge/default-model; do
  model=''
  [ ! -f "$entry" ] || IFS= read -r model <"$entry" || true
  case $model in
    "$prefix"/*) rm -f -- "$entry" 2>/dev/null || true ;;
  esac
done
rm -f -- "$config/profile.json" "$data/profile.json" "$config/models" # what was measured, and where models are
for file in "$data"/glm-edge-demo-????????????.gguf; do
  [ ! -f "$file" ] || rm -f -- "$file"
done
[ -L "$cache" ] || rm -rf -- "$cache"
for folder in "$config" "$data" /etc/glm-edge; do
  [ -L "$folder" ] || ! [ -d "$folder" ] || rmdir -- "$folder" 2>/dev/null || true
done

rm -f -- "$prefix/uninstall.sh" "$list"
if rmdir -- "$prefix" 2>/dev/null; then
  echo "GLM Edge is removed: $prefix"
else
  echo "GLM Edge is removed; files of your own stay in $prefix"
fi
