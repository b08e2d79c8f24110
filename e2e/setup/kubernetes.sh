#!/usr/bin/env bash
# Builds Kubernetes (API server, controller manager, scheduler, kubelet and kube-proxy) from
# Debian's source package, and prints the folder of the programs. The build takes about seven
# minutes on two cores and is done once per machine.
#
# If KUBEBUILDER_ASSETS names a folder that already holds all of these programs, nothing is built.
. "$(dirname "$0")/lib.sh"

VERSION=1.20.2
PACKAGE="kubernetes=1.20.5+really1.20.2-1.1+deb12u1"
PROGRAMS="kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet"
DIR="$OB_CACHE/kubernetes-$VERSION"

holds_all() { for p in $PROGRAMS; do [ -x "$1/$p" ] || return 1; done; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    if holds_all "$KUBEBUILDER_ASSETS"; then
        echo "$KUBEBUILDER_ASSETS"
        exit
    fi
    say "KUBEBUILDER_ASSETS lacks some of these programs: $PROGRAMS; using our own build of Kubernetes"
fi

exec 9>"$OB_CACHE/kubernetes.lock"
flock 9
if [ -e "$DIR/complete" ] && holds_all "$DIR"; then
    echo "$DIR"
    exit
fi

# The source package comes from bookworm.
fetch() {
    local apt=$OB_CACHE/apt-src
    private_apt "$apt" deb-src bookworm
    mkdir "$apt/build"
    apt-get "${apt_options[@]}" update
    cd "$apt/build"
    apt-get "${apt_options[@]}" source --download-only "$PACKAGE"
}

build() {
    local src=$OB_CACHE/kubernetes-src
    rm -rf "$src"
    mkdir -p "$src"
    tar -xf "$OB_CACHE"/apt-src/build/kubernetes_*.orig.tar.gz -C "$src" --strip-components=1
    cd "$src"
    # The vendored reflect2 1.0.1 crashes under Go 1.18 and newer at the first custom resource
    # (mapiternext). Debian's 1.0.2 does not.
    local reflect2=vendor/github.com/modern-go/reflect2
    rm -f "$reflect2"/*.go "$reflect2"/*.s
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go /usr/share/gocode/src/github.com/modern-go/reflect2/*.s "$reflect2/"
    rm -f "$reflect2"/*_test.go
    local targets=()
    for p in $PROGRAMS; do targets+=("cmd/$p"); done
    make all WHAT="${targets[*]}" FORCE_HOST_GO=y GOFLAGS=-mod=vendor KUBE_GIT_VERSION="v$VERSION" KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=archive GOLDFLAGS='-s -w'
    mkdir -p "$DIR"
    for p in $PROGRAMS; do install -m 0755 "_output/local/bin/linux/$(go env GOARCH)/$p" "$DIR/$p"; done
    touch "$DIR/complete"
    cd "$OB_CACHE"
    chmod -R u+w "$src"
    rm -rf "$src" "$OB_CACHE/apt-src"
}

step "download the Kubernetes $VERSION source from Debian" fetch
step "build Kubernetes $VERSION (about 7 minutes)" build
echo "$DIR"
