#!/usr/bin/env bash
# Checks that the tests notice faults. Each patch in this folder (a mutant) puts one fault into a
# copy of the source tree, and the tests that the patch names must then fail. The last line reads
# "N caught, N survived".
#   run.sh [NAME…]           without names, runs all mutants; NAME is a file name without .patch
#   JOBS=2                   the number of mutants at a time; the default is the number of processors
#   SECONDS_EACH=120         the longest time that a mutant's tests may take
#   OB_MUTANTS_TARGET_DIR    the folder for the copies and their builds; the default is target/mutants
#
# A patch begins with a header. Each test that the header names must fail:
#   Fault: a publisher that was paused posts without reading the Lease first.
#   Test: GROUP FILTER       GROUP is unit, api or tor; FILTER is part of the path of a test
. "$(dirname "$0")/../../e2e/setup/lib.sh"
cd "$(dirname "$0")/../.."

SECONDS_EACH=${SECONDS_EACH:-120}
# A build that takes longer than this hangs.
BUILD_SECONDS=3600
JOBS=${JOBS:-$(nproc)}
patches=$PWD/tests/mutants
target=${OB_MUTANTS_TARGET_DIR:-${CARGO_TARGET_DIR:-target}/mutants}
mkdir -p "$target/logs"
target=$(cd "$target" && pwd -P)
tree=$target/tree
log=$target/logs/current.log
# Builds without debug information take less time.
export CARGO_TARGET_DIR=$target CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_TERM_COLOR=never RUST_LIB_BACKTRACE=0
# Without this, git would take the copy for a folder of the repository around it, and apply nothing.
export GIT_CEILING_DIRECTORIES=$target

exec 9>"$target/lock"
flock -n 9 || fail "another run uses $target; wait for its end, or set OB_MUTANTS_TARGET_DIR"

# The process ID of the running cargo, if any.
running=
clean() {
    if [ -n "$running" ]; then
        kill "$running" 2>/dev/null || true
        wait "$running" || true
    fi
    rm -rf "$tree"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

header() { sed -n "/^diff --git /q; s/^$2: //p" "$patches/$1.patch"; }

# Copies the source tree, with changes that are not committed. The files get new modification times:
# with the old ones, cargo would take the objects that a mutant left for objects of these files.
copy_tree() {
    git rev-parse --is-inside-work-tree >/dev/null || fail "this needs a git checkout of the source tree"
    rm -rf "$tree"
    mkdir "$tree"
    comm -z -23 <(git ls-files -z --cached --others --exclude-standard | sort -z) <(git ls-files -z --deleted | sort -z) |
        tar -c --null --files-from=- | tar -x --touch -C "$tree"
}

patch_tree() { git -C "$tree" apply "$@"; }

# limited SECONDS COMMAND…: runs a command in the copy. The exit code is 124 if the time is over.
# The shell waits for a background process, because only then can a signal interrupt it.
limited() {
    local code=0
    (cd "$tree" && exec timeout --kill-after=10 "$@") >>"$log" 2>&1 9>&- &
    running=$!
    wait "$running" || code=$?
    running=
    return "$code"
}

# cargo_test SECONDS GROUP ARGUMENT…
cargo_test() {
    local seconds=$1 group=$2 targets
    shift 2
    case $group in
    unit) targets=(--lib) ;;
    api) targets=(--test operator_api_server) ;;
    tor) targets=(--test '*_real_tor') ;;
    esac
    # A failed target must not keep cargo from running the next one, whose tests are counted too.
    limited "$seconds" cargo test --locked --package onionbalance-operator --no-fail-fast "${targets[@]}" "$@"
}

build() { cargo_test "$BUILD_SECONDS" "$1" --no-run; }
# run_tests GROUP [FILTER]
run_tests() { cargo_test "$SECONDS_EACH" "$1" -- "${@:2}"; }
selected() { sed -nE 's/^running ([0-9]+) tests?$/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }'; }

# Installs what the tests of a group need.
prepare() {
    case $1 in
    unit) ;;
    api)
        e2e/setup/packages.sh cluster
        KUBEBUILDER_ASSETS=$(e2e/setup/kubernetes.sh kube-apiserver)
        export KUBEBUILDER_ASSETS
        ;;
    tor) e2e/setup/packages.sh tor ;;
    *) fail "unknown group of tests: $1; use unit, api or tor" ;;
    esac
}

# Runs every named test without a mutant. A test that fails or does not exist catches nothing.
check_without_mutant() {
    local group filter useless=0 start=$SECONDS
    say "building without a mutant …"
    : >"$log"
    for group in $(cut -d ' ' -f 1 <<<"$tests" | sort -u); do
        prepare "$group"
        build "$group" || {
            tail -n 30 "$log" >&2
            fail "the tests do not compile; see $log"
        }
    done
    say "running the tests without a mutant …"
    while read -r group filter; do
        : >"$log"
        # shellcheck disable=SC2086 # Without a filter, there must be no argument.
        if ! run_tests "$group" $filter; then
            tail -n 30 "$log" >&2
            say "$group $filter: FAILS WITHOUT A MUTANT"
            useless=1
        elif [ "$(selected)" = 0 ]; then
            say "$group $filter: SELECTS NO TEST"
            useless=1
        fi
    done < <(sort -u <<<"$tests")
    [ "$useless" = 0 ] || fail "mend these tests, or the patches that name them, first"
    say "the tests pass without a mutant: $((SECONDS - start)) s"
}

# judge NAME: puts in a mutant and runs its tests. Sets `verdict` to caught, survived or broken, and
# `detail` to the reason.
judge() {
    local name=$1 group filter code
    verdict=broken
    patch_tree "$patches/$name.patch" 2>>"$log" || { detail="the patch does not apply" && return; }
    verdict=caught detail=
    while read -r group filter; do
        code=0
        build "$group" || code=$?
        if [ "$code" != 0 ]; then
            verdict=broken detail="does not compile"
            break
        fi
        # shellcheck disable=SC2086
        run_tests "$group" $filter || code=$?
        case $code in
        0)
            verdict=survived detail+="$group $filter passed; "
            ;;
        124 | 137) detail+="$group $filter was still running after $SECONDS_EACH s; " ;;
        esac
    done < <(header "$name" Test)
    patch_tree --reverse "$patches/$name.patch"
}

# Divides the mutants among several runs of this script, each with a copy and a build of its own. A
# mutant's tests need other servers than those of another, except the tests of tor, which may use
# fixed ports: one run has all of these.
several() {
    local job name count=0 code=0 running=()
    local -A share=()
    # The last line must not count the mutants of an earlier run.
    rm -f "$target"/logs/job*
    for name in "${names[@]}"; do
        job=$((count++ % JOBS))
        ! header "$name" Test | grep -q '^tor ' || job=0
        share[$job]+=" $name"
    done
    for job in "${!share[@]}"; do
        # shellcheck disable=SC2086 # These are several arguments.
        JOBS=1 OB_MUTANTS_TARGET_DIR=$target/job$job "$patches/run.sh" ${share[$job]} >"$target/logs/job$job" 9>&- &
        running+=($!)
    done
    # shellcheck disable=SC2064 # The processes are known now.
    trap "kill ${running[*]} 2>/dev/null" EXIT
    for job in "${running[@]}"; do wait "$job" || code=1; done
    trap - EXIT
    cat "$target"/logs/job* | awk '{ for (i = 2; i <= NF; i += 2) { sub(",", "", $i); n[$i] += $(i - 1) } }
        END { print n["caught"] + 0 " caught, " n["survived"] + 0 " survived" (n["broken"] ? ", " n["broken"] " broken" : "") }'
    return "$code"
}

if [ $# = 0 ]; then
    mapfile -t names < <(cd "$patches" && basename -s .patch ./*.patch)
else
    names=("$@")
fi
for name in "${names[@]}"; do
    [ -f "$patches/$name.patch" ] || fail "no such mutant: tests/mutants/$name.patch; the files in tests/mutants/ have the names"
    [ -n "$(header "$name" Test)" ] || fail "tests/mutants/$name.patch names no test"
done
[ "$JOBS" -lt "${#names[@]}" ] || JOBS=${#names[@]}
if [ "$JOBS" -gt 1 ]; then
    several
    exit
fi
tests=$(for name in "${names[@]}"; do header "$name" Test; done)

copy_tree
check_without_mutant
caught=0 survivors=() broken=()
for index in "${!names[@]}"; do
    name=${names[index]} start=$SECONDS
    : >"$log"
    judge "$name"
    detail=${detail%; }
    say "$((index + 1))/${#names[@]} $name: $verdict${detail:+ ($detail)}: $((SECONDS - start)) s"
    case $verdict in
    caught) caught=$((caught + 1)) ;;
    survived) survivors+=("$name") ;;
    broken) broken+=("$name: $detail") && tail -n 30 "$log" >&2 ;;
    esac
    [ "$verdict" = caught ] || cp "$log" "$target/logs/$name.log"
done

for name in "${survivors[@]}"; do
    say "survived: $name: $(header "$name" Fault)"
done
for name in "${broken[@]}"; do say "broken: $name"; done
[ $((${#survivors[@]} + ${#broken[@]})) = 0 ] || say "logs: $target/logs"
echo "$caught caught, ${#survivors[@]} survived$([ ${#broken[@]} = 0 ] || echo ", ${#broken[@]} broken")"
[ "$caught" = "${#names[@]}" ]
