#!/usr/bin/env bash
# Prints what publish.sh has pushed as lines NAME=VALUE, for the steps of a workflow: the registry, and
# the digests of the images and of the chart.
. "$(dirname "$0")/settings.sh"

echo "registry=$OB_REGISTRY"
sed -e 's,^charts/onionbalance-operator ,chart=,' -e 's/ /=/' "$OUT/published"
