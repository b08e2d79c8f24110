#!/usr/bin/env bash
# Installs the Debian packages that the build, the tests and the demo need, if any are missing.
# Each list contains the build tools.
#   packages.sh tor        tor and Python, for the integration tests on a private Tor network
#   packages.sh chart      promtool and Python, for the tests of the Helm chart
#   packages.sh fuzz       a C++ compiler, for the fuzz targets
#   packages.sh release    what the images, the Debian package, the site and a release need
#   packages.sh demo       everything for a one-node Kubernetes cluster and its images
#   packages.sh cluster    the same, and what the tests on the cluster need
#   packages.sh client     tor, and what the demo needs on a cluster that exists already
. "$(dirname "$0")/lib.sh"

BUILD="make gcc libc6-dev"
TOR="$BUILD tor tor-geoipdb obfs4proxy python3 python3-venv iproute2"
DEMO="$TOR etcd-server containerd runc containernetworking-plugins iptables conntrack procps socat openssl curl
    tini golang-go golang-github-modern-go-reflect2-dev jq ca-certificates"
CLUSTER="$DEMO prometheus lua5.1 iputils-ping g++ git systemd"

case "${1:-}" in
tor) wanted=$TOR ;;
demo) wanted=$DEMO ;;
cluster) wanted=$CLUSTER ;;
client) wanted="$TOR jq ca-certificates" ;;
release) wanted="$BUILD binutils jq git curl ca-certificates python3 python3-venv skopeo" ;;
chart) wanted="$BUILD ca-certificates python3 python3-venv prometheus" ;;
fuzz) wanted="$BUILD g++ git ca-certificates" ;;
*) fail "usage: packages.sh tor|chart|fuzz|release|demo|cluster|client" ;;
esac
case $1 in
demo | cluster | client) command -v kubectl >/dev/null || wanted="$wanted kubernetes-client" ;;
esac

# Only one run at a time installs packages: another one would remove the first one's file.
lock() {
    exec 9>"$OB_CACHE/packages.lock"
    flock 9
}
# While this file exists, no package starts its service when it is installed. A run that was killed
# leaves the file behind.
policy=/usr/sbin/policy-rc.d mark="# made by packages.sh of the Onionbalance operator"
if grep -qsF "$mark" $policy && [ "$(id -u)" = 0 ]; then
    lock
    rm -f $policy
fi

missing=()
for p in $wanted; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || fail "this needs Debian or a derivative with apt-get; missing packages: ${missing[*]}"
need_root
lock
# Prevents the packages from starting their services: the demo and the tests run their own daemons.
install_them() {
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy
        chmod 0755 $policy
    fi
    update_lists
    # Remove nothing: containerd and runc conflict with the versions in Docker's own packages.
    # Wait up to 600 s for a fresh machine that just installs its updates.
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=600 "${missing[@]}"
}
say "missing packages: ${missing[*]}"
step "install ${#missing[@]} Debian packages" install_them
