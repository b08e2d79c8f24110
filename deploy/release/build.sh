#!/usr/bin/env bash
# Builds the files of a release for one architecture: images with their SBOMs, the Debian package and
# the archive of the kubectl plugin.
#   build.sh [ARCHITECTURE]
# The default is this machine's architecture. For another one, the script builds what this machine's
# compilers can build, and says what it leaves out.
. "$(dirname "$0")/settings.sh"
cd "$TREE"

NATIVE=$(dpkg --print-architecture)
ARCHITECTURE=${1:-$NATIVE}
FOLDER=$OUT/$ARCHITECTURE
PROGRAMS=(onionbalance-operator onionbalance onionbalance-config kubectl-onionbalance)
case $ARCHITECTURE in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) fail "releases are for ${ARCHITECTURES[*]}, not for $ARCHITECTURE" ;;
esac
target=$machine-unknown-linux-gnu
compiler=$machine-linux-gnu-gcc
export OB_IMAGES=$FOLDER/images OB_ARCHITECTURE=$ARCHITECTURE

# A tag names the version in Cargo.toml.
[ "${GITHUB_REF_TYPE:-}" != tag ] || [ "${GITHUB_REF_NAME:-}" = "v$VERSION" ] ||
    fail "the tag $GITHUB_REF_NAME does not match the version $VERSION in Cargo.toml"

# missing: prints what the programs for the architecture need and this machine lacks.
missing() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || echo "Rust's library (rustup target add $target)"
    [ "$ARCHITECTURE" = "$NATIVE" ] || command -v "$compiler" >/dev/null || echo "the compiler $compiler"
}

programs() {
    local options=() built=${CARGO_TARGET_DIR:-target}/release variable=${target//-/_} name
    if [ "$ARCHITECTURE" != "$NATIVE" ]; then
        export "CC_$variable=$compiler" "CARGO_TARGET_${variable^^}_LINKER=$compiler"
        options=(--target "$target")
        built=${CARGO_TARGET_DIR:-target}/$target/release
    fi
    for name in "${PROGRAMS[@]}"; do options+=(--bin "$name"); done
    cargo build --release --locked "${options[@]}"
    mkdir -p "$FOLDER/programs"
    for name in "${PROGRAMS[@]}"; do install --mode=0755 "$built/$name" "$FOLDER/programs/$name"; done
}

# Writes the pages of the programs, which do not depend on the architecture.
pages() { cargo run --release --locked --package onionbalance-e2e --bin manual -- "$FOLDER/pages"; }

plugin() {
    local name=kubectl-onionbalance_${VERSION}_linux_$ARCHITECTURE
    rm -rf "$FOLDER/plugin"
    mkdir -p "$FOLDER/plugin/$name"
    install --mode=0755 --target-directory="$FOLDER/plugin/$name" "$FOLDER/programs/kubectl-onionbalance" \
        deploy/plugin/kubectl_complete-onionbalance
    install --mode=0644 --target-directory="$FOLDER/plugin/$name" LICENSE
    deploy/licences.py >"$FOLDER/plugin/$name/LICENSES-OF-CRATES"
    tarball "$FOLDER/plugin/$name" >"$FOLDER/plugin/$name.tar.gz"
}

rm -rf "$FOLDER"
mkdir -p "$FOLDER"
e2e/setup/images.sh tor >/dev/null
e2e/setup/images.sh tor-obfs4 >/dev/null
lacks=$(missing | paste -sd ';')
if [ -n "$lacks" ]; then
    say "$ARCHITECTURE: NOT BUILT: the programs and what contains them. Missing: $lacks"
    exit
fi
step "programs for $ARCHITECTURE" programs
step "pages" pages
e2e/setup/images.sh operator "$FOLDER/programs/onionbalance-operator" >/dev/null
OB_DEB=$FOLDER/deb OB_HOME_PAGE=$OB_REPOSITORY e2e/setup/deb.sh "$FOLDER/programs" "$FOLDER/pages" >/dev/null
plugin
say "$ARCHITECTURE: $FOLDER"
