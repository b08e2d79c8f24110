#!/usr/bin/env bash
# Builds Kubernetes (API server, controller manager, scheduler, kubelet and kube-proxy) from
# Debian's source package, and prints the folder of the programs. The build takes about three
# minutes on two cores and is done once per machine.
#   kubernetes.sh [PROGRAM…]
# If KUBEBUILDER_ASSETS names a folder that holds the given programs (by default all of them),
# nothing is built.
. "$(dirname "$0")/lib.sh"

VERSION=1.20.2
PACKAGE="kubernetes=1.20.5+really1.20.2-1.1+deb12u1"
PROGRAMS="kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet"
DIR="$OB_CACHE/kubernetes-$VERSION"
WORK="$OB_CACHE/kubernetes-src"

# holds FOLDER PROGRAM…: succeeds if the folder holds all of these programs.
holds() {
    local folder=$1 p
    shift
    for p in "$@"; do [ -x "$folder/$p" ] || return 1; done
}

wanted=("$@")
[ $# -gt 0 ] || read -ra wanted <<<"$PROGRAMS"
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    if holds "$KUBEBUILDER_ASSETS" "${wanted[@]}"; then
        echo "$KUBEBUILDER_ASSETS"
        exit
    fi
    say "KUBEBUILDER_ASSETS lacks some of these programs: ${wanted[*]}; using our own build of Kubernetes"
fi

exec 9>"$OB_CACHE/kubernetes.lock"
flock 9
# shellcheck disable=SC2086
if [ -e "$DIR/complete" ] && holds "$DIR" $PROGRAMS; then
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

# Kubernetes' own Makefile would build five generators of code and compile most packages twice, with
# and without cgo. Only the OpenAPI definitions are missing in the source, and no program needs cgo.
# The tags providerless and dockerless leave out the clients of cloud providers and of Docker, which
# are two fifths of the code.
in_source() {
    cd "$WORK/src/k8s.io/kubernetes"
    export GOPATH=$WORK GOCACHE=$WORK/cache GO111MODULE=off GOTOOLCHAIN=local GOFLAGS= CGO_ENABLED=0
    # The compiler collects its garbage less often, which saves a sixth of its time.
    export GOGC=400
}

prepare() {
    local src=$WORK/src/k8s.io/kubernetes
    rm -rf "$WORK"
    mkdir -p "$src"
    tar -xf "$OB_CACHE"/apt-src/build/kubernetes_*.orig.tar.gz -C "$src" --strip-components=1
    in_source
    # The vendored reflect2 1.0.1 crashes under Go 1.18 and newer at the first custom resource
    # (mapiternext). Debian's 1.0.2 does not.
    local reflect2=vendor/github.com/modern-go/reflect2 folders
    rm -f "$reflect2"/*.go "$reflect2"/*.s
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go /usr/share/gocode/src/github.com/modern-go/reflect2/*.s "$reflect2/"
    rm -f "$reflect2"/*_test.go
    # The OpenAPI definitions, generated as in Makefile.generated_files.
    go build -o "$WORK/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    folders=$(grep -rlE --include='*.go' '^// *\+k8s:openapi-gen=' cmd pkg plugin vendor/k8s.io/*/ | xargs -n1 dirname | LC_ALL=C sort -u |
        grep -vE '^vendor/k8s.io/(code-generator|sample-apiserver)/' | sed 's,^,k8s.io/kubernetes/,' | paste -sd,)
    "$WORK/openapi-gen" --logtostderr -i "$folders" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
        -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$WORK/violations"
    # The source lists the known violations of the rules for names. Another list means that other
    # definitions were generated.
    diff "$WORK/violations" api/api-rules/violation_exceptions.list
}

build() {
    local targets=() flags="-s -w" package field p
    in_source
    for p in $PROGRAMS; do targets+=("./cmd/$p"); done
    # The programs print the version in the first package, and the API server reports the other one.
    for package in component-base/version client-go/pkg/version; do
        for field in gitVersion=v$VERSION gitMajor=1 gitMinor=20 gitCommit=debian gitTreeState=archive; do
            flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$package.$field"
        done
    done
    mkdir -p "$DIR"
    go build -tags selinux,notest,providerless,dockerless -ldflags "$flags" -o "$DIR/" "${targets[@]}"
    # shellcheck disable=SC2086
    holds "$DIR" $PROGRAMS
    touch "$DIR/complete"
    cd "$OB_CACHE"
    rm -rf "$WORK" "$OB_CACHE/apt-src"
}

step "download the Kubernetes $VERSION source from Debian" fetch
step "generate Kubernetes' OpenAPI definitions" prepare
step "build Kubernetes $VERSION (about 3 minutes)" build
echo "$DIR"
