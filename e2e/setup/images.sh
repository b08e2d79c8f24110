#!/usr/bin/env bash
# Builds container images without Docker, from Debian root file systems (cached outside the source
# tree) and buildah.
#   images.sh pause          builds localhost/pause:1, which holds a pod's namespaces
#   images.sh tor            builds localhost/onionbalance-tor:dev
#   images.sh operator BIN   builds localhost/onionbalance-operator:dev with the program BIN
#   images.sh sample         builds localhost/onionbalance-sample:dev
#   images.sh all BIN        builds the tor, operator and sample images
# Writes the archives target/images/{tor,onionbalance-operator,sample}.tar and prints their paths.
# The archive of the pause image is in the cache. deploy/images/ has Dockerfiles of the same images.
. "$(dirname "$0")/lib.sh"

TREE=$(cd "$(dirname "$0")/../.." && pwd)
IMAGES=$TREE/target/images
# The operator's program is linked against this machine's C library, so its image uses the same
# Debian release.
RELEASE=$(. /etc/os-release && echo "$VERSION_CODENAME")

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"

# rootfs NAME PACKAGE…: creates a tar archive of a minimal Debian with these packages, unless one
# with the same package versions exists. Prints the archive's path.
rootfs() {
    local name=$1 versions tar
    shift
    versions=$(apt-cache show --no-all-versions "$@" base-files | sed -n 's/^Version: //p' | sha256sum | head -c 12)
    tar=$OB_CACHE/rootfs/$name-$RELEASE-$versions.tar
    if [ ! -e "$tar" ]; then
        mkdir -p "$OB_CACHE/rootfs"
        step "root file system for the $name image" mmdebstrap --variant=minbase --include="$(IFS=,; echo "$*")" \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            "$RELEASE" "$tar.new.tar"
        mv "$tar.new.tar" "$tar"
    fi
    echo "$tar"
}

# image ARCHIVE NAME USER ENTRYPOINT (SOURCE TARGET)…: builds an image from these files.
# Archives among the sources are unpacked.
image() {
    local archive=$1 name=$2 user=$3 entrypoint=$4 container
    shift 4
    container=$(buildah from scratch)
    while [ $# -gt 0 ]; do
        buildah add --quiet "$container" "$1" "$2"
        shift 2
    done
    buildah config --entrypoint "[\"$entrypoint\"]" --cmd '' --user "$user" "$container"
    mkdir -p "$(dirname "$archive")"
    rm -f "$archive" "$archive.new"
    buildah commit --quiet "$container" "docker-archive:$archive.new:$name"
    buildah rm "$container"
    mv "$archive.new" "$archive"
}

pause() {
    printf '#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { _exit(0); }\nint main() { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n' >"$work/pause.c"
    gcc -static -O2 -o "$work/pause" "$work/pause.c"
    image "$1" localhost/pause:1 65532:65532 /pause "$work/pause" /pause
}

# For the path /, busybox's web server runs cgi-bin/index.cgi if there is no index.html.
sample() {
    image "$1" localhost/onionbalance-sample:dev 65532:65532 '/bin/busybox","httpd","-f","-p","8080","-h","/www' \
        "$(command -v busybox)" /bin/busybox "$2" /www/cgi-bin/index.cgi
}

case "${1:-}" in
pause)
    archive=$OB_CACHE/images/pause.tar
    [ -e "$archive" ] || step "pause image" pause "$archive"
    ;;
tor)
    base=$(rootfs tor tor ca-certificates)
    archive=$IMAGES/tor.tar
    [ "$archive" -nt "$base" ] || step "tor image" image "$archive" localhost/onionbalance-tor:dev 65532:65532 /usr/bin/tor "$base" /
    ;;
operator)
    program=${2:?path of the operator program is missing}
    base=$(rootfs operator ca-certificates)
    archive=$IMAGES/onionbalance-operator.tar
    # Debug and release builds share this archive, so compare the contents, not the ages.
    sum=$(cat "$program" <(echo "$base 0711") | sha256sum)
    if [ ! -e "$archive" ] || [ "$(cat "$archive.source" 2>/dev/null)" != "$sum" ]; then
        strip --strip-debug -o "$work/onionbalance-operator" "$program"
        # If a user may run a program but not read it, other processes of that user cannot inspect
        # its processes. This protects them from the start.
        chmod 0711 "$work/onionbalance-operator"
        step "operator image" image "$archive" localhost/onionbalance-operator:dev 65532:65532 /usr/local/bin/onionbalance-operator \
            "$base" / "$work/onionbalance-operator" /usr/local/bin/onionbalance-operator
        echo "$sum" >"$archive.source"
    fi
    ;;
sample)
    archive=$IMAGES/sample.tar
    page=$TREE/e2e/setup/sample/index.cgi
    [ "$archive" -nt "$page" ] || step "sample image" sample "$archive" "$page"
    ;;
all)
    for name in tor operator sample; do "$0" $name "${2:?path of the operator program is missing}"; done
    exit
    ;;
*) fail "usage: images.sh pause|tor|operator PROGRAM|sample|all PROGRAM" ;;
esac
echo "$archive"
