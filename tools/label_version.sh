#!/usr/bin/env bash
# Labels the version of the sources in this folder as that of a variant: with IKEM_LABEL=cu13, 1.2.0 becomes 1.2.0+cu13.
# Without a label nothing changes.
set -euo pipefail
label=${IKEM_LABEL:-}
[[ -n $label ]] || exit 0
[[ $label =~ ^[a-z0-9]+$ ]] || { echo "label-version: IKEM_LABEL: expected letters and digits, got \"$label\"" >&2; exit 1; }
sed -i.bak -E "s/^(version = \"[0-9.]+)(\+[a-z0-9]+)?\"/\1+$label\"/" pyproject.toml
rm pyproject.toml.bak
grep '^version = ' pyproject.toml
