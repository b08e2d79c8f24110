#!/usr/bin/env bash
# Builds a current API server for custom resources, k8s.io/apiextensions-apiserver, from the library
# packages of Debian sid, and prints the program's path. Debian packages no other current API
# server. The build takes about four minutes on two cores and is done once per machine.
. "$(dirname "$0")/lib.sh"

# The version that the tests were written for. Debian sid holds one version at a time, so this
# script also accepts any newer one. Version 0.36 of the libraries belongs to Kubernetes 1.36.
VERSION=0.36.4
PACKAGE=golang-k8s-apiextensions-apiserver-dev
DIR="$OB_CACHE/crd-server-$VERSION"
APT="$OB_CACHE/crd-server-apt"

exec 9>"$OB_CACHE/crd-server.lock"
flock 9

# Downloads the library, everything that it imports, and the Go compiler that sid builds it with.
fetch() {
    private_apt "$APT" deb sid
    apt-get "${apt_options[@]}" update
    apt-get "${apt_options[@]}" install --download-only --no-install-recommends --yes "$PACKAGE" golang-go
}

build() {
    local root=$OB_CACHE/crd-server-root package version go
    rm -rf "$root" "$DIR"
    mkdir -p "$root" "$DIR"
    for package in "$APT"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
    # Debian's version is like 0.36.4-1, or 0.36.4+ds-1 if Debian has left files out.
    version=$(dpkg-deb --field "$APT"/cache/archives/"$PACKAGE"_*.deb Version)
    version=${version%%[-+~]*}
    go=("$root"/usr/lib/go-*/bin/go)
    (
        export GOROOT="${go[0]%/bin/go}" GOPATH="$root/usr/share/gocode" GOCACHE="$root/go-build"
        export GO111MODULE=off GOTOOLCHAIN=local GOFLAGS= CGO_ENABLED=0
        # The compiler collects its garbage less often, which saves a sixth of its time.
        export GOGC=400
        cd "$GOPATH/src/k8s.io/apiextensions-apiserver"
        # The server reports its version at /version, as the version of Kubernetes.
        v=k8s.io/component-base/version
        minor=${version#0.}
        "${go[0]}" build -o "$DIR/crd-server" -ldflags "-s -w -X $v.gitVersion=v1.$minor -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*}" .
    )
    "$DIR/crd-server" --help
    rm -rf "$root" "$APT"
    # The last file to be written. Without it, the build is not complete.
    echo "$version" >"$DIR/version"
}

if ! [ -e "$DIR/version" ]; then
    step "download the packages of a current CRD server from Debian sid" fetch
    step "build the CRD server (about 4 minutes)" build
    say "the CRD server has version $(cat "$DIR/version")"
fi
version=$(cat "$DIR/version")
[ "$version" = "$VERSION" ] || say "Debian sid has the CRD server $version; the tests were written for $VERSION"
echo "$DIR/crd-server"
