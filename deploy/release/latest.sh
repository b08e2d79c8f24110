#!/usr/bin/env bash
# Prints the tag of the latest release that is no pre-release, if there is one.
set -euo pipefail

git tag --list 'v[0-9]*' --sort=-version:refname | sed '/-/d' | sed -n 1p
