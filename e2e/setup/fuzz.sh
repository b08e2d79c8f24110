#!/usr/bin/env bash
# Fuzzes the targets of fuzz/, two at a time, each for SECONDS_EACH seconds (default 60). The
# initial corpus consists of the checked-in seeds and the test data in src/. Findings are written to
# fuzz/artifacts. The last line has the form of cargo's "test result" lines.
#   fuzz.sh [TARGET…]
#   fuzz.sh --build       only builds the targets
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/../.."

CARGO_FUZZ=0.13.2
SECONDS_EACH=${SECONDS_EACH:-60}
TOOLS=$OB_CACHE/tools
export PATH=$TOOLS/bin:$PATH
# Use a separate directory, because no other build can reuse instrumented objects. It outlives the
# source tree, because most of the time goes into the dependencies.
export CARGO_TARGET_DIR=${OB_FUZZ_TARGET_DIR:-$OB_CACHE/fuzz-target}

install_fuzz() {
    exec 9>"$OB_CACHE/cargo-fuzz.lock"
    flock 9
    cargo install --locked --root "$TOOLS" --target-dir "$OB_CACHE/cargo-fuzz-target" "cargo-fuzz@$CARGO_FUZZ"
    rm -rf "$OB_CACHE/cargo-fuzz-target"
}
# Sanitizers need a nightly compiler and find faults in unsafe code, which this project does not
# have. By default, cargo-fuzz would compile each crate as one unit, on one core.
build() { cargo fuzz build --sanitizer none --codegen-units 16; }

cargo-fuzz --version 2>/dev/null | grep -qF "$CARGO_FUZZ" || step "install cargo-fuzz $CARGO_FUZZ" install_fuzz
step "build the fuzz targets" build
[ "${1:-}" != --build ] || exit 0
programs=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release

# Lists the files of src/ that are valid inputs of a target.
testdata() {
    case $1 in
    descriptor_outer) ls src/onion/descriptor/testdata/*.txt ;;
    consensus) ls src/consensus/testdata/*.consensus ;;
    microdescriptors) ls src/consensus/testdata/*.microdescriptors ;;
    esac
}

# one TARGET: fuzzes one target. libFuzzer exits with an error at the first input that panics, hangs
# or uses too much memory.
one() {
    local target=$1 code=0 corpus log
    corpus=$(mktemp -d)
    log=$OB_CACHE/logs/fuzz-$target.log
    mkdir -p "fuzz/artifacts/$target" "$OB_CACHE/logs"
    for file in fuzz/seeds/"$target"/* $(testdata "$target"); do
        [ ! -f "$file" ] || cp "$file" "$corpus/"
    done
    "$programs/$target" -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -dict=fuzz/tor.dict \
        -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 "$corpus" >"$log" 2>&1 || code=$?
    rm -rf "$corpus"
    local runs
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$code" = 0 ] && [ "${runs:-0}" -gt 0 ]; then
        echo "test fuzz::$target ... ok ($runs inputs in $SECONDS_EACH s)"
    else
        echo "test fuzz::$target ... FAILED ($log)"
        tail -n 30 "$log"
    fi
}

if [ $# = 0 ]; then
    mapfile -t targets < <(cargo fuzz list)
else
    targets=("$@")
fi
results=$(mktemp)
trap 'rm -f "$results"' EXIT
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    one "$target" >>"$results" &
done
wait
cat "$results"
passed=$(grep -c '^test .* ok (' "$results" || true)
failed=$((${#targets[@]} - passed))
echo "test result: fuzz. $passed passed; $failed failed; 0 ignored"
[ "$failed" = 0 ]
