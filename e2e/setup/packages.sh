#!/usr/bin/env bash
# Installs the Debian packages that the build, the tests and the demo need, if any are missing.
#   packages.sh tor        tor and Python, for the integration tests on a private Tor network
#   packages.sh chart      promtool and Python, for the tests of the Helm chart
#   packages.sh release    build tools, and what the scripts in deploy/release need
#   packages.sh demo       build tools, and everything for a one-node Kubernetes cluster and its images
#   packages.sh cluster    all of these, and what the tests on the cluster need
#   packages.sh client     tor, and what the demo needs on a cluster that exists already
. "$(dirname "$0")/lib.sh"

TOR="tor tor-geoipdb obfs4proxy python3 python3-venv iproute2"
DEMO="$TOR etcd-server containerd runc containernetworking-plugins iptables conntrack procps socat openssl curl
    tini golang-go golang-github-modern-go-reflect2-dev make gcc libc6-dev jq ca-certificates"
CLUSTER="$DEMO prometheus lua5.1 iputils-ping g++ git systemd"

case "${1:-}" in
tor) wanted=$TOR ;;
demo) wanted=$DEMO ;;
cluster) wanted=$CLUSTER ;;
client) wanted="$TOR gcc libc6-dev make jq ca-certificates" ;;
release) wanted="gcc libc6-dev make binutils jq git curl ca-certificates python3 python3-venv skopeo" ;;
chart) wanted="ca-certificates python3 python3-venv prometheus" ;;
*) fail "usage: packages.sh tor|chart|release|demo|cluster|client" ;;
esac
case $1 in
demo | cluster | client) command -v kubectl >/dev/null || wanted="$wanted kubernetes-client" ;;
esac

# apt-get refuses to run twice at a time.
exec 9>"$OB_CACHE/packages.lock"
flock 9

missing=()
for p in $wanted; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || fail "this needs Debian or a derivative with apt-get; missing packages: ${missing[*]}"
need_root
# Prevents the packages from starting their services: the demo and the tests run their own daemons.
install_them() {
    local policy=/usr/sbin/policy-rc.d mark="# made by packages.sh of the Onionbalance operator"
    # A file left over from an aborted run contains our mark.
    if [ ! -e $policy ] || grep -qF "$mark" $policy; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy
        chmod 0755 $policy
    fi
    apt-get update
    # Remove nothing: containerd and runc conflict with the versions in Docker's own packages.
    # Wait up to 600 s for a fresh machine that just installs its updates.
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=600 "${missing[@]}"
}
say "missing packages: ${missing[*]}"
step "install ${#missing[@]} Debian packages" install_them
