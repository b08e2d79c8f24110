# Defines the cache folder and the progress output of the setup scripts, which source this file.
# shellcheck shell=bash
set -euo pipefail

# The folder for everything that outlives a run. It is outside the source tree.
OB_CACHE="${OB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/onionbalance-operator}"
mkdir -p "$OB_CACHE"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

fail() {
    printf '\033[31merror:\033[0m %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND…: runs the command and writes its output to a log. Prints the time that the
# command took, or the end of the log if the command fails.
step() {
    local name=$1 log start
    shift
    mkdir -p "$OB_CACHE/logs"
    # A file name has at most 255 bytes.
    log="$OB_CACHE/logs/$(tr -c 'a-zA-Z0-9\n' '-' <<<"${name:0:80}").log"
    start=$SECONDS
    say "$name …"
    # Do not run this within an `if` or `||`, which would disable `set -e` inside the command.
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
        fail "$name failed (exit code $code); see the full log: $log"
    fi
}

# update_lists [OPTION…]: downloads the system's package lists. apt-get has no option that waits for
# their lock, which another apt may hold on a fresh machine. So this function tries again for ten
# minutes.
update_lists() {
    local output end=$((SECONDS + 600))
    until output=$(LC_ALL=C apt-get "$@" update 2>&1); do
        echo "$output"
        [[ $output = *"Could not get lock"* ]] && [ "$SECONDS" -lt "$end" ] || return 1
        sleep 5
    done
    echo "$output"
    touch "$OB_CACHE/package-lists"
}

# renew_lists: downloads the system's package lists if our scripts have not done so for a day. Old
# lists name packages that Debian's servers no longer have. Only root may write the lists.
renew_lists() {
    local stamp=$OB_CACHE/package-lists
    [ "$(id -u)" = 0 ] && [ -z "$(find "$stamp" -mtime -1 2>/dev/null)" ] || return 0
    # A machine without a network tries only once a day.
    touch "$stamp"
    # Unlike other commands of steps, update_lists needs no `set -e`.
    (step "renew the package lists" update_lists -o APT::Update::Error-Mode=any) ||
        say "could not renew the package lists; if a package cannot be downloaded, run apt-get update and try again"
}

# private_apt FOLDER TYPE SUITE: sets up an apt in the folder that reads only the given suite of Debian,
# whichever release this machine runs, and leaves the system's apt unchanged. TYPE is deb or deb-src.
# Sets the array apt_options.
private_apt() {
    local folder=$1 type=$2 suite=$3 site
    # Under pipefail, grep would end the script if nothing matched, and head could end apt-get.
    site=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' 'Origin: Debian' |
        awk '!/security/ && !found++')
    [ -n "$site" ] || fail "this machine's apt sources contain no Debian repository; add one and run apt-get update"
    rm -rf "$folder"
    mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial"
    echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" >"$folder/sources.list"
    # An empty list of installed packages.
    : >"$folder/status"
    apt_options=(-o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null
        -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State=$folder/state" -o "Dir::State::status=$folder/status"
        -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "run this as root: it installs packages and creates namespaces and containers"
}
