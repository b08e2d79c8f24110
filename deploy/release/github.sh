#!/usr/bin/env bash
# Creates the GitHub release of a tag, with the files of the release. A version with a hyphen is a
# pre-release. Needs the program gh and its variable GH_TOKEN.
. "$(dirname "$0")/settings.sh"
cd "$TREE"

options=()
[[ $VERSION != *-* ]] || options+=(--prerelease)
mapfile -t files < <(find "$OUT/files" -type f ! -name notes.md | LC_ALL=C sort)
gh release create "v$VERSION" --verify-tag --title "$VERSION" --notes-file "$OUT/files/notes.md" "${options[@]}" "${files[@]}"
