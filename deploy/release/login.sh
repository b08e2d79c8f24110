#!/usr/bin/env bash
# Logs in to the registry for skopeo, Helm and cosign, which all read Docker's file of credentials.
# TOKEN is the password, and GITHUB_ACTOR is the user.
. "$(dirname "$0")/settings.sh"

mkdir -p "$HOME/.docker"
skopeo login --authfile "$HOME/.docker/config.json" --username "${GITHUB_ACTOR:?}" --password-stdin \
    "${OB_REGISTRY%%/*}" <<<"${TOKEN:?}"
