#!/usr/bin/env bash
# Builds the Debian package onionbalance-daemon: the stand-alone daemon, its generator of
# configurations, the systemd unit, manual pages and completions. Equal input makes equal packages.
#   deb.sh PROGRAMS PAGES
# PROGRAMS is a folder with the programs onionbalance and onionbalance-config. They decide the
# architecture, so they may be cross-compiled. PAGES is a folder that the program manual has filled.
# Variables:
#   OB_DEB=FOLDER       the folder for the package; the default is target/deb
#   OB_MAINTAINER       the maintainer, as "NAME <ADDRESS>"; the default is the user who builds
#   OB_HOME_PAGE        the project's address; by default, the package names none
#   SOURCE_DATE_EPOCH   the time of all files, in seconds; the default is the time of the last commit
# Prints the path of the package.
. "$(dirname "$0")/lib.sh"
shopt -s inherit_errexit
umask 022

TREE=$(cd "$(dirname "$0")/../.." && pwd)
SOURCE=$TREE/deploy/deb
NAME=onionbalance-daemon
PROGRAMS=${1:?usage: deb.sh PROGRAMS PAGES}
PAGES=${2:?usage: deb.sh PROGRAMS PAGES}
FOLDER=${OB_DEB:-$TREE/target/deb}
OB_MAINTAINER=${OB_MAINTAINER:-$(id -un) <$(id -un)@localhost>}
# A source tree without git has no commits.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$TREE" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/$NAME

# version: prints the package's version. Debian sorts 1.0.0~rc.1 before 1.0.0, as Cargo sorts 1.0.0-rc.1.
version() {
    local version
    version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$TREE/Cargo.toml")
    echo "${version/-/\~}-1"
}

# architecture PROGRAM: prints Debian's name of the architecture that a program runs on.
architecture() {
    local machine
    machine=$(readelf --file-header "$1" | sed -n 's/^ *Machine: *//p')
    case $machine in
    "Advanced Micro Devices X86-64") echo amd64 ;;
    AArch64) echo arm64 ;;
    *) fail "$1 runs on an unknown machine: $machine" ;;
    esac
}

# dependencies PROGRAM…: prints the libraries that the programs need. dpkg-shlibdeps is no help with
# programs for another architecture, because it looks for installed libraries.
dependencies() {
    local unknown
    unknown=$(readelf --wide --dynamic "$@" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
        { grep -vE '^(lib(c|m|gcc_s)\.so\.[0-9]+|ld-linux.*)$' || true; } | sort -u | paste -sd ' ')
    [ -z "$unknown" ] || fail "add the packages of these libraries to $0: $unknown"
    echo "libc6 (>= $(readelf --wide --version-info "$@" | sed -n 's/.*Name: GLIBC_\([0-9.]*\) .*/\1/p' |
        sort --version-sort | tail -n 1)), libgcc-s1"
}

# size: prints the size of the installed files in KiB, as dpkg-gencontrol computes it.
size() {
    find "$root" -path "$root/DEBIAN" -prune -o -printf '%y %s\n' |
        awk '{ total += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print total }'
}

# compressed FILE: writes standard input to FILE.gz.
compressed() {
    mkdir -p "$(dirname "$1")"
    gzip --best --no-name >"$1.gz"
}

programs() {
    local name
    for name in onionbalance onionbalance-config; do
        install -D --mode=0755 "$PROGRAMS/$name" "$root/usr/bin/$name"
    done
}

pages() {
    local name
    for name in onionbalance onionbalance-config; do
        compressed "$root/usr/share/man/man1/$name.1" <"$PAGES/man1/$name.1"
        install -D --mode=0644 "$PAGES/bash/$name.bash" "$root/usr/share/bash-completion/completions/$name"
        install -D --mode=0644 "$PAGES/zsh/_$name" "$root/usr/share/zsh/vendor-completions/_$name"
        install -D --mode=0644 "$PAGES/fish/$name.fish" "$root/usr/share/fish/vendor_completions.d/$name.fish"
    done
}

documents() {
    local date
    install -D --mode=0644 --target-directory="$doc" "$SOURCE/copyright" "$SOURCE/README.Debian"
    compressed "$doc/changelog" <"$TREE/CHANGELOG.md"
    date=$(LC_ALL=C date --utc --date="@$SOURCE_DATE_EPOCH" --rfc-email)
    compressed "$doc/changelog.Debian" <<CHANGELOG
$NAME ($(version)) unstable; urgency=medium

  * See changelog.gz for the changes of this version.

 -- $OB_MAINTAINER  $date
CHANGELOG
    "$TREE/deploy/licences.py" | compressed "$doc/licences"
}

unit() {
    install -D --mode=0644 "$SOURCE/$NAME.service" "$root/usr/lib/systemd/system/$NAME.service"
    install -D --mode=0644 "$SOURCE/$NAME.sysusers" "$root/usr/lib/sysusers.d/$NAME.conf"
    install -d --mode=0755 "$root/etc/onionbalance"
}

control() {
    mkdir "$root/DEBIAN"
    install --mode=0755 --target-directory="$root/DEBIAN" "$SOURCE/postinst" "$SOURCE/prerm" "$SOURCE/postrm"
    (cd "$root" && find usr -type f -print0 | LC_ALL=C sort --zero-terminated | xargs --null md5sum) >"$work/sums"
    install --mode=0644 "$work/sums" "$root/DEBIAN/md5sums"
    cat >"$root/DEBIAN/control" <<CONTROL
Package: $NAME
Version: $(version)
Architecture: $(architecture "$PROGRAMS/onionbalance")
Maintainer: $OB_MAINTAINER
Installed-Size: $(size)
Depends: $(dependencies "$PROGRAMS/onionbalance" "$PROGRAMS/onionbalance-config"), init-system-helpers, procps, systemd | systemd-standalone-sysusers, tor (>= 0.4.8)
Provides: onionbalance
Conflicts: onionbalance
Replaces: onionbalance
Section: net
Priority: optional
${OB_HOME_PAGE:+Homepage: $OB_HOME_PAGE
}Description: load balancer for Tor onion services
 The daemon publishes one descriptor with the introduction points of several
 tor processes, so that one onion address leads to many servers.
 .
 It replaces Python Onionbalance (v3): it reads the same configuration and
 keys, and has the same command line.
CONTROL
}

build() {
    programs
    pages
    documents
    unit
    control
    # dpkg-deb sets no file's time to a later one than SOURCE_DATE_EPOCH, but keeps earlier ones.
    find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    mkdir -p "$FOLDER"
    # A package of an earlier version would match the same pattern.
    rm -f "$FOLDER/${NAME}"_*_"$(architecture "$PROGRAMS/onionbalance").deb"
    dpkg-deb --root-owner-group -Zxz --build "$root" "$FOLDER/"
}

step "Debian package $NAME" build
echo "$FOLDER/${NAME}_$(version)_$(architecture "$PROGRAMS/onionbalance").deb"
