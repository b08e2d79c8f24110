#!/usr/bin/env bash
# Prints the release notes: the changes, the images with their digests, the commands that verify them,
# and the commits since the previous release.
. "$(dirname "$0")/settings.sh"
cd "$TREE"

deploy/release/changes.py "$VERSION"
printf '\n### Images\n\n'
for image in "${IMAGES[@]}"; do
    [ ! -d "$OUT/images/$image" ] || printf -- '- `%s/%s:%s@%s`\n' "$OB_REGISTRY" "$image" "$VERSION" "$(digest_of "$image")"
done
# shellcheck disable=SC2016
printf '\n[How to verify them](%s/blob/v%s/docs/releasing.md#verify-a-release).\n' "$OB_REPOSITORY" "$VERSION"

# The commit of this release may have its tag already.
if previous=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null); then
    printf '\n### Commits since %s\n\n' "$previous"
    git log --no-merges --format='- %s (%h)' "$previous..HEAD"
fi
