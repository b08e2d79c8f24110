#!/usr/bin/env bash
# Creates the file system of an image: one program, the libraries that the program needs, and no
# other program, not even a shell. The libraries come from a Debian system. The image also records,
# in the places where scanners look, which Debian packages its files come from.
#   rootfs.sh [--certificates] [--helper HELPER] SYSTEM PROGRAM TARGET MODE OUT
# SYSTEM is the folder of the Debian system (/ for this machine's own). PROGRAM is the program's
# file, which may be outside SYSTEM. TARGET and MODE are its path and its mode in the image. OUT is
# the folder to create. --certificates adds the certificates of the public certificate authorities.
# --helper adds a program of the system that PROGRAM starts. HELPER is its path in SYSTEM and in OUT.
#
# The Dockerfiles in this folder and e2e/setup/images.sh use this script. It needs binutils.
set -euo pipefail
shopt -s inherit_errexit
# The image must not depend on the locale or on the mask of whoever builds it.
export LC_ALL=C
umask 022

fail() {
    echo "error: rootfs.sh: $*" >&2
    exit 1
}

certificates=
if [ "${1:-}" = --certificates ]; then
    certificates=yes
    shift
fi
helper=
if [ "${1:-}" = --helper ]; then
    helper=${2:?path of the helper is missing}
    shift 2
fi
[ $# = 5 ] || fail "usage: rootfs.sh [--certificates] [--helper HELPER] SYSTEM PROGRAM TARGET MODE OUT"
system=${1%/} program=$2 target=$3 mode=$4 out=$5
[ -f "$program" ] || fail "there is no program $program"
[ ! -e "$out" ] || fail "$out exists already"

# The paths in the system of files that the image contains.
taken=()
# The names of the libraries that the image contains.
declare -A libraries=()

# real PATH: prints the path of the file at the end of PATH's symbolic links. An absolute link
# begins at the system's folder.
real() {
    local path=$1 link
    while [ -L "$system$path" ]; do
        link=$(readlink "$system$path")
        case $link in
        /*) path=$link ;;
        *) path=${path%/*}/$link ;;
        esac
    done
    [ -f "$system$path" ] || fail "the system in ${system:-/} has no file $1"
    echo "$path"
}

# put PATH TARGET MODE: copies a file of the system to the image.
put() {
    local path
    path=$(real "$1")
    install -D --mode="$3" "$system$path" "$out$2"
    taken+=("$path")
}

interpreter_of() {
    readelf --program-headers --wide "$1" | sed -n 's/.*Requesting program interpreter: \(.*\)\]$/\1/p'
}

needed_by() {
    readelf --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*Shared library: \[\(.*\)\]$/\1/p'
}

# add_library NAME: adds a library, and the libraries that it needs in turn, unless it is there.
add_library() {
    local name=$1 path=
    [ -z "${libraries[$name]:-}" ] || return 0
    libraries[$name]=yes
    for path in "/usr/lib/$triplet/$name" "/lib/$triplet/$name"; do
        if [ -e "$system$path" ] || [ -L "$system$path" ]; then break; fi
    done
    put "$path" "/usr/lib/$triplet/$name" 0644
    add_libraries "$out/usr/lib/$triplet/$name"
}

# add_libraries FILE: adds all libraries that a file needs.
add_libraries() {
    local names name
    names=$(needed_by "$1")
    for name in $names; do add_library "$name"; done
}

# package_of PATH: prints the package that contains a file of the system, if any. A package may name
# a file in /lib although /lib is a link to /usr/lib.
package_of() {
    local lists
    lists=$(grep --files-with-matches --line-regexp --fixed-strings -e "$1" -e "/usr$1" -e "${1#/usr}" \
        "$system"/var/lib/dpkg/info/*.list) || return 0
    [ "$(wc -l <<<"$lists")" = 1 ] || fail "several packages contain $1: $lists"
    lists=${lists##*/}
    lists=${lists%.list}
    echo "${lists%%:*}"
}

# add_package NAME: adds a package's entry in Debian's database, where scanners for images without
# dpkg look for it, and the package's copyright file, which must accompany copies of its files.
add_package() {
    local entry=$out/var/lib/dpkg/status.d/$1
    mkdir -p "${entry%/*}"
    awk -v RS= -v name="$1" 'index($0, "Package: " name "\n") == 1 { print }' "$system/var/lib/dpkg/status" >"$entry"
    [ -s "$entry" ] || fail "the package database in ${system:-/} has no entry $1"
    put "/usr/share/doc/$1/copyright" "/usr/share/doc/$1/copyright" 0644
}

install -D --mode="$mode" "$program" "$out$target"
packages=
case $program in "$system"/*) packages=$(package_of "${program#"$system"}") ;; esac

interpreter=$(interpreter_of "$program")
if [ -n "$interpreter" ]; then
    # Debian keeps libraries in a folder for each architecture, next to the dynamic loader.
    triplet=$(real "$interpreter")
    triplet=${triplet%/*}
    triplet=${triplet##*/}
    put "$interpreter" "$interpreter" 0755
    libraries[${interpreter##*/}]=yes
    add_libraries "$program"
    # The C library loads this one by itself when a thread ends early.
    add_library libgcc_s.so.1
fi

if [ -n "$helper" ]; then
    put "$helper" "$helper" 0755
    add_libraries "$out$helper"
fi

put /usr/lib/os-release /usr/lib/os-release 0644
mkdir -p "$out/etc"
ln -s ../usr/lib/os-release "$out/etc/os-release"
# Without this file, the C library would ask DNS before it reads /etc/hosts.
echo 'hosts: files dns' >"$out/etc/nsswitch.conf"

if [ -n "$certificates" ]; then
    mkdir -p "$out/etc/ssl/certs"
    for file in "$system"/usr/share/ca-certificates/mozilla/*.crt; do
        [ -f "$file" ] || fail "the system in ${system:-/} lacks the package ca-certificates"
        # Prints the file with a line feed at its end.
        awk '{ print }' "$file"
    done >"$out/etc/ssl/certs/ca-certificates.crt"
    packages+=" ca-certificates"
fi

for path in "${taken[@]}"; do
    package=$(package_of "$path")
    [ -n "$package" ] || fail "no package contains $path"
    packages+=" $package"
done
for package in $(tr ' ' '\n' <<<"$packages" | sort -u); do add_package "$package"; done

# Equal files must make equal images, whenever they were built.
find "$out" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
