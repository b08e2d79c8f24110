#!/usr/bin/env bash
# Builds the documentation site, and prints the folder that contains it. A link or an anchor that
# does not exist fails the build, as does a page that is missing from the navigation.
#   docs.sh FOLDER
. "$(dirname "$0")/lib.sh"

tree=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
requirements="$tree/docs/site/requirements.txt"
DIR="$OB_CACHE/docs-$(sha256sum "$requirements" | head -c 12)"

exec 9>"$OB_CACHE/docs.lock"
flock 9
make_environment() {
    rm -rf "$DIR"
    python3 -m venv "$DIR"
    "$DIR/bin/pip" install --require-hashes --no-deps --only-binary :all: --requirement "$requirements"
    touch "$DIR/complete"
}
build() {
    (cd "$tree/docs/site" && PYTHONDONTWRITEBYTECODE=1 "$DIR/bin/python" -m unittest --quiet test_site test_screenshot)
    rm -rf "$folder/source" "$folder/site"
    mkdir -p "$folder/source"
    "$DIR/bin/python" "$tree/docs/site/stage.py" "$tree" "$folder/source"
    cp "$tree/docs/site/site.css" "$tree/docs/site/iframe-worker.js" "$folder/source"
    # Without this variable, the theme prints a warning about a future version of MkDocs.
    PYTHONDONTWRITEBYTECODE=1 NO_MKDOCS_2_WARNING=1 DOCS_SOURCE="$folder/source" DOCS_SITE="$folder/site" \
        "$DIR/bin/mkdocs" build --strict --config-file "$tree/docs/site/mkdocs.yml"
}
[ -e "$DIR/complete" ] || step "install MkDocs" make_environment
step "build the documentation site" build
echo "$folder/site"
