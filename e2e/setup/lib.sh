# Sourced by the set-up scripts: where things are cached, and how a step is announced.
# shellcheck shell=bash
set -euo pipefail

# Everything that outlives a run stands here, outside the source tree.
OB_CACHE="${OB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/onionbalance-operator}"
mkdir -p "$OB_CACHE"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

fail() {
    printf '\033[31merror:\033[0m %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND…: runs the command with its output in a log; prints how long it took, or the log's end when it fails.
step() {
    local name=$1 log start
    shift
    mkdir -p "$OB_CACHE/logs"
    # A file's name has at most 255 bytes.
    log="$OB_CACHE/logs/$(tr -c 'a-zA-Z0-9\n' '-' <<<"${name:0:80}").log"
    start=$SECONDS
    say "$name …"
    # Apart from any `if` or `||`, which would switch `set -e` off inside the command.
    local code=0
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1
    code=$?
    set -e
    if [ "$code" = 0 ]; then
        say "$name: $((SECONDS - start)) s"
    else
        tail -n 30 "$log" >&2
        fail "$name failed (exit $code); the whole log: $log"
    fi
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "this needs root: it installs packages, and makes namespaces and containers"
}
