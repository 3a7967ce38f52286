#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make sign IMAGE=...`: signs what `make push` pushed, with its bill of materials and, in the workflow, where it was made. Needs cosign.
#   IMAGE=registry.example/team/yolov12@sha256:...   what make push printed last
#   KEY=cosign.key    what cosign's --key takes; without it keyless: cosign asks who you are, and a workflow answers for itself
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=docker/command.sh
. "$here/command.sh"
usage "$@"
image=${IMAGE-}

die() {
    printf 'sign: %s\n' "$*" >&2
    exit 2
}

[[ -n $image ]] || die "which image? Type make sign IMAGE=registry.example/team/yolov12@sha256:..., as make push printed it last"
[[ $image =~ ^[^@[:space:]]+@sha256:[0-9a-f]{64}$ ]] ||
    die "IMAGE=$image: name it by its digest, as make push printed it last, since a tag can move before it is signed"
# A key in a file; cosign has others, such as awskms://... and pkcs11:...
[[ -z ${KEY-} || $KEY == *:* || -s $KEY ]] || die "KEY=$KEY: no such file, or an empty one"
type -P docker >/dev/null || die "docker is needed: https://docs.docker.com/engine/install/"
type -P cosign >/dev/null || die "cosign is needed: https://docs.sigstore.dev/cosign/system_config/installation/"
# cosign writes what it signs into a public log, the image's name with it, and asks before it does. Only a workflow has nobody to be asked.
options=()
[[ -z ${GITHUB_ACTIONS-} ]] || options+=(--yes)
[[ -z ${KEY-} ]] || options+=(--key "$KEY")

# All that is signed, before the first signature.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
docker run --rm --network none "$image" cat /opt/yolov12/share/yolov12/sbom.cdx.json >"$work/sbom.cdx.json" ||
    die "the bill of materials can not be read from $image (see above)"
signed="its bill of materials"
if [[ -n ${GITHUB_ACTIONS-} ]]; then
    docker image inspect "$image" | "$here/provenance.py" >"$work/provenance.json"
    signed+=" and its provenance"
fi

cosign sign "${options[@]}" "$image"
cosign attest "${options[@]}" --type cyclonedx --predicate "$work/sbom.cdx.json" "$image"
[[ ! -s $work/provenance.json ]] ||
    cosign attest "${options[@]}" --type slsaprovenance1 --predicate "$work/provenance.json" "$image"
printf 'signed %s with %s\n' "$image" "$signed"
