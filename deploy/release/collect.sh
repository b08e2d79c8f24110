#!/usr/bin/env bash
# Moves the files that the workflow `build` has uploaded to where build.sh would have put them.
#   collect.sh FOLDER
# FOLDER has one folder release-ARCHITECTURE for each architecture.
. "$(dirname "$0")/settings.sh"

folder=${1:?usage: collect.sh FOLDER}
mkdir -p "$OUT"
for architecture in "${ARCHITECTURES[@]}"; do
    [ -d "$folder/release-$architecture" ] || fail "there is no folder $folder/release-$architecture"
    rm -rf "${OUT:?}/$architecture"
    mv "$folder/release-$architecture" "$OUT/$architecture"
done
