#!/usr/bin/env bash
# Builds container images without Docker. Each image contains one program, the libraries that the
# program needs, and no other program. The libraries come from Debian packages, which are unpacked
# but not installed, so none of their scripts run. Equal programs and packages make equal images.
#   images.sh pause          builds localhost/pause:dev, which holds a pod's namespaces
#   images.sh tor            builds localhost/onionbalance-tor:dev
#   images.sh tor-obfs4      builds localhost/onionbalance-tor-obfs4:dev, tor with a pluggable transport
#   images.sh operator BIN   builds localhost/onionbalance-operator:dev with the program BIN
#   images.sh sample         builds localhost/onionbalance-sample:dev, a web server with one page
#   images.sh all BIN        builds the tor, operator and sample images
#   OB_IMAGES=FOLDER         the folder for the images; the default is target/images
#   OB_TAG=TAG               the tag of the image; the default is dev
#   OB_ARCHITECTURE=NAME     Debian's name of the images' architecture, if it is not this machine's
# Writes NAME.tar, an archive that containerd, Docker and Podman can load; NAME.digest, the digest of
# the image in the archive; and NAME.spdx.json, the list of the image's content (SBOM). Prints the
# paths of the archives. NAME is tor, tor-obfs4, onionbalance-operator or sample. The archive of the pause image
# is in the cache. deploy/images/ has Dockerfiles of the same images.
. "$(dirname "$0")/lib.sh"
# Without this, a function that runs in $(…) would continue after an error.
shopt -s inherit_errexit
umask 022

TREE=$(cd "$(dirname "$0")/../.." && pwd)
ROOTFS=$TREE/deploy/images/rootfs.sh
SBOM=$TREE/deploy/images/sbom.py
LICENCES=$TREE/deploy/licences.py
IMAGES=${OB_IMAGES:-$TREE/target/images}
TAG=${OB_TAG:-dev}
# The time of everything in an image, in seconds since 1970. A fixed time makes equal images equal.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
CREATED=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
NATIVE=$(dpkg --print-architecture)
DEBIAN=${OB_ARCHITECTURE:-$NATIVE}
# The architecture in the terms of container images.
case $DEBIAN in
armhf) ARCHITECTURE=arm ;;
i386) ARCHITECTURE=386 ;;
ppc64el) ARCHITECTURE=ppc64le ;;
*) ARCHITECTURE=$DEBIAN ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# debian NAME PACKAGE…: unpacks these packages and all that they depend on, in the versions that
# this machine's apt offers, unless they are in the cache. Prints the folder, which contains the
# Debian system in `system` and the checksums of the packages in `sums`. The program is linked
# against this machine's C library, so its image uses the same Debian release.
debian() {
    local name=$1 uris key folder
    shift
    # With an empty list of installed packages, apt includes all dependencies.
    : >"$work/status"
    mkdir -p "$work/archives/partial"
    if [ "$DEBIAN" = "$NATIVE" ]; then
        renew_lists
        apt_options=(-o "Dir::State::status=$work/status")
    else
        name=$DEBIAN-$name
        foreign_apt
    fi
    apt_options+=(-o "Dir::Cache::archives=$work/archives" -o APT::Sandbox::User=root)
    uris=$(apt-get "${apt_options[@]}" install --print-uris --yes --no-install-recommends base-files "$@")
    # A line reads: 'URI' FILE SIZE SUM. The file's name contains the version.
    key=$(sed -n "s/^'.*' \([^ ]* [0-9]*\) .*/\1/p" <<<"$uris" | LC_ALL=C sort | cat - "$0" | sha256sum | head -c 12)
    folder=$OB_CACHE/debian/$name-$key
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$OB_CACHE/debian/$name"-*
        step "Debian packages of the $name image" unpack "$folder" base-files "$@"
    fi
    echo "$folder"
}

# foreign_apt: sets apt_options to an apt that knows the packages of another architecture, of the
# release of Debian that this machine runs.
foreign_apt() {
    local release site
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    private_apt "$work/apt" deb "$release"
    # The newest tor is often a security update.
    site=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' 'Origin: Debian' |
        sed -n '/security/{p;q}')
    [ -z "$site" ] || sed "s, [^ ]* $release main, $site $release-security main," "$work/apt/sources.list" >"$work/security"
    [ -z "$site" ] || cat "$work/security" >>"$work/apt/sources.list"
    apt_options+=(-o "APT::Architecture=$DEBIAN" -o "APT::Architectures=$DEBIAN")
    step "package lists for $DEBIAN" apt-get "${apt_options[@]}" update
}

# unpack FOLDER PACKAGE…
unpack() {
    local folder=$1 deb package
    local database=$folder/system/var/lib/dpkg
    shift
    mkdir -p "$folder/system"
    apt-get "${apt_options[@]}" install --download-only --yes --no-install-recommends "$@"
    for deb in "$work"/archives/*.deb; do
        dpkg-deb --extract "$deb" "$folder/system"
        package=$(dpkg-deb --field "$deb" Package)
        # The part of dpkg's database that rootfs.sh reads.
        mkdir -p "$database/info"
        dpkg-deb --fsys-tarfile "$deb" | tar --list | sed -e 's,^\.,,' -e 's,/$,,' >"$database/info/$package.list"
        dpkg-deb --field "$deb" >>"$database/status"
        echo >>"$database/status"
        echo "$package $(sha256sum <"$deb" | cut -d ' ' -f 1)" >>"$folder/sums"
    done
    # The last file to be written. Without it, the folder is not complete.
    touch "$folder/complete"
}

# version_of FOLDER PACKAGE: prints the version of an unpacked package.
version_of() {
    awk -v name="$2" '/^Package: / { found = $2 == name } found && /^Version: / { print $2 }' \
        "$1/system/var/lib/dpkg/status"
}

# packed FOLDER: prints a tar archive of a folder that does not depend on when, by whom or in which
# order the files were created.
packed() {
    (cd "$1" && find . -mindepth 1 -printf '%P\0' | LC_ALL=C sort --zero-terminated |
        tar --create --format=ustar --null --no-recursion --files-from=- \
            --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH")
}

# blob FILE TYPE: moves a file into the image's layout, and prints its descriptor.
blob() {
    local sum size
    sum=$(sha256sum <"$1" | cut -d ' ' -f 1)
    size=$(stat --format=%s "$1")
    mv "$1" "$work/layout/blobs/sha256/$sum"
    jq --null-input --compact-output --arg type "$2" --arg digest "sha256:$sum" --argjson size "$size" \
        '{mediaType: $type, digest: $digest, size: $size}'
}

# pack NAME IMAGE VERSION ENTRYPOINT: packs the folder $work/root as an image and writes NAME.tar and
# NAME.digest. VERSION is the version of the image's program, and ENTRYPOINT is a JSON list. The
# archive has two descriptions of the image: OCI's for containerd and registries, and Docker's.
pack() {
    local archive=$IMAGES/$1.tar image=$2 reference=$2:$TAG version=$3 entrypoint=$4
    local oci=application/vnd.oci.image layer config manifest diff
    mkdir -p "$IMAGES" "$work/layout/blobs/sha256"
    packed "$work/root" >"$work/layer"
    diff=$(sha256sum <"$work/layer" | cut -d ' ' -f 1)
    gzip --no-name <"$work/layer" >"$work/layer.gz"
    layer=$(blob "$work/layer.gz" $oci.layer.v1.tar+gzip)
    jq --null-input --compact-output --arg created "$CREATED" --arg architecture "$ARCHITECTURE" \
        --arg diff "sha256:$diff" --arg title "${image##*/}" --arg version "$version" \
        --argjson entrypoint "$entrypoint" \
        '{created: $created, architecture: $architecture, os: "linux",
          config: {
            User: "65532:65532", Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            Entrypoint: $entrypoint,
            Labels: {"org.opencontainers.image.title": $title, "org.opencontainers.image.version": $version}},
          rootfs: {type: "layers", diff_ids: [$diff]},
          history: [{created: $created, created_by: "images.sh"}]}' >"$work/config"
    config=$(blob "$work/config" $oci.config.v1+json)
    jq --null-input --compact-output --arg type $oci.manifest.v1+json --argjson config "$config" \
        --argjson layer "$layer" \
        '{schemaVersion: 2, mediaType: $type, config: $config, layers: [$layer]}' >"$work/manifest"
    manifest=$(blob "$work/manifest" $oci.manifest.v1+json)
    jq --null-input --compact-output --arg type $oci.index.v1+json --argjson manifest "$manifest" \
        --arg reference "$reference" --arg tag "$TAG" --arg architecture "$ARCHITECTURE" \
        '{schemaVersion: 2, mediaType: $type, manifests: [$manifest + {
          platform: {architecture: $architecture, os: "linux"},
          annotations: {"io.containerd.image.name": $reference, "org.opencontainers.image.ref.name": $tag}
        }]}' >"$work/layout/index.json"
    jq --null-input --compact-output --argjson config "$config" --argjson layer "$layer" \
        --arg reference "$reference" \
        'def path: .digest | sub(":"; "/") | "blobs/" + .;
         [{Config: ($config | path), RepoTags: [$reference], Layers: [$layer | path]}]' >"$work/layout/manifest.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
    packed "$work/layout" >"$archive.new"
    jq --raw-output .digest <<<"$manifest" >"$IMAGES/$1.digest"
    mv "$archive.new" "$archive"
}

# list NAME IMAGE VERSION FOLDER ARGUMENT…: writes NAME.spdx.json, the list of the image's content.
list() {
    local name=$1 image=$2 version=$3 folder=$4
    shift 4
    "$SBOM" --image "$image" --version "$version" --digest "$(cat "$IMAGES/$name.digest")" --created "$CREATED" \
        --root "$work/root" --sums "$folder/sums" "$@" >"$IMAGES/$name.spdx.json"
}

# unless_current NAME INPUT COMMAND…: runs the command, which builds the image NAME, unless the
# image was built from the same input. Prints the archive's path.
unless_current() {
    local name=$1 source=$IMAGES/$1.source sum
    # The scripts are inputs, too. Contents count and not ages, because debug and release builds
    # share the archives.
    sum=$(cat - "$0" "$ROOTFS" "$SBOM" "$LICENCES" <<<"$2 $SOURCE_DATE_EPOCH $TAG" | sha256sum)
    shift 2
    if [ ! -e "$IMAGES/$name.tar" ] || [ "$(cat "$source" 2>/dev/null)" != "$sum" ]; then
        rm -f "$source"
        step "$name image" "$@"
        echo "$sum" >"$source"
    fi
    say "$name image: $(cat "$IMAGES/$name.digest")"
    echo "$IMAGES/$name.tar"
}

pause() {
    cat >"$work/pause.c" <<'PROGRAM'
#include <signal.h>
#include <unistd.h>
static void end(int s) { _exit(0); }
int main() { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
PROGRAM
    mkdir "$work/root"
    gcc -static -O2 -o "$work/root/pause" "$work/pause.c"
    pack pause localhost/pause 1 '["/pause"]'
}

tor() {
    local folder=$1 version
    version=$(version_of "$folder" tor)
    "$ROOTFS" "$folder/system" "$folder/system/usr/bin/tor" /usr/bin/tor 0755 "$work/root"
    pack tor localhost/onionbalance-tor "$version" '["/usr/bin/tor"]'
    list tor localhost/onionbalance-tor "$version" "$folder"
}

tor_obfs4() {
    local folder=$1 version
    version=$(version_of "$folder" tor)
    "$ROOTFS" --helper /usr/bin/obfs4proxy "$folder/system" "$folder/system/usr/bin/tor" /usr/bin/tor 0755 "$work/root"
    pack tor-obfs4 localhost/onionbalance-tor-obfs4 "$version" '["/usr/bin/tor"]'
    list tor-obfs4 localhost/onionbalance-tor-obfs4 "$version" "$folder"
}

operator() {
    local folder=$1 program=$2 version
    version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$TREE/Cargo.toml")
    # strip knows the programs of this machine's architecture only. Release builds are stripped already.
    if [ "$DEBIAN" = "$NATIVE" ]; then
        strip --strip-debug -o "$work/program" "$program"
    else
        cp "$program" "$work/program"
    fi
    # If a user may run a program but not read it, other processes of that user cannot inspect its
    # processes. This protects them from the start.
    "$ROOTFS" --certificates "$folder/system" "$work/program" /usr/local/bin/onionbalance-operator 0711 "$work/root"
    "$LICENCES" >"$work/licences"
    install -D --mode=0644 "$work/licences" "$work/root/usr/share/doc/onionbalance-operator/copyright"
    pack onionbalance-operator localhost/onionbalance-operator "$version" '["/usr/local/bin/onionbalance-operator"]'
    # The crates that the program is built from, with their licences.
    (cd "$TREE" && cargo tree --locked --package onionbalance-operator --edges normal --prefix none \
        --format '{p}|{l}') >"$work/crates"
    list onionbalance-operator localhost/onionbalance-operator "$version" "$folder" \
        --crates "$work/crates" --lock "$TREE/Cargo.lock"
}

# For the path /, busybox's web server runs cgi-bin/index.cgi if there is no index.html.
sample() {
    local folder=$1 page=$2 version
    version=$(version_of "$folder" busybox-static)
    "$ROOTFS" "$folder/system" "$folder/system/bin/busybox" /bin/busybox 0755 "$work/root"
    install -D --mode=0755 "$page" "$work/root/www/cgi-bin/index.cgi"
    pack sample localhost/onionbalance-sample "$version" '["/bin/busybox","httpd","-f","-p","8080","-h","/www"]'
    list sample localhost/onionbalance-sample "$version" "$folder"
}

if [ "${1:-}" = all ]; then
    for name in tor operator sample; do "$0" $name "${2:?path of the operator program is missing}"; done
    exit
fi

mkdir -p "$OB_CACHE"
exec 9>"$OB_CACHE/images.lock"
flock 9
case "${1:-}" in
pause)
    IMAGES=$OB_CACHE/images
    unless_current pause "" pause
    ;;
tor)
    folder=$(debian tor tor)
    unless_current tor "$folder" tor "$folder"
    ;;
tor-obfs4)
    folder=$(debian obfs4-tor tor obfs4proxy)
    unless_current tor-obfs4 "$folder" tor_obfs4 "$folder"
    ;;
operator)
    program=${2:?path of the operator program is missing}
    folder=$(debian operator ca-certificates libc6 libgcc-s1)
    unless_current onionbalance-operator "$folder $(sha256sum <"$program")" operator "$folder" "$program"
    ;;
sample)
    folder=$(debian sample busybox-static)
    page=$TREE/e2e/setup/sample/index.cgi
    unless_current sample "$folder $(sha256sum <"$page")" sample "$folder" "$page"
    ;;
*) fail "usage: images.sh pause|tor|tor-obfs4|operator PROGRAM|sample|all PROGRAM" ;;
esac
