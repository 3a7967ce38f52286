#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# fetch.sh URL SHA256 FILE: a file that is on no package index, by its address and hash.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

url=$1 sha256=$2 file=$3

die() {
    echo "fetch: $*" >&2
    exit 2
}

use_secrets
install_debian ca-certificates curl
curl "${curl_options[@]}" --fail --location --silent --show-error --retry 3 --output "$file" "$url" ||
    die "$url can not be fetched (see above): where it can not be reached, put a mirror's address in its place in env/versions.yaml, and type make render"
found=$(sha256sum "$file")
[[ ${found%% *} == "$sha256" ]] || die "$url has sha256 ${found%% *}, and the pin is $sha256: fetch it again, or mend the pin"
