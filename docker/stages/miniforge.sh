#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# miniforge.sh URL SHA256 PYTHON: Miniforge in /opt/miniforge, and with it the environment /opt/yolov12, which has that Python and no more.
# Only the installer is fetched: the environment is made of the packages that it brings.
set -euo pipefail

url=$1 sha256=$2 python=$3
miniforge=/opt/miniforge
environment=/opt/yolov12

die() {
    echo "miniforge: $*" >&2
    exit 2
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As root conda also writes to ~/.conda; what it keeps there goes away with the folder.
export HOME=$work CONDA_NUMBER_CHANNEL_NOTICES=0

python3 - "$url" "$work/installer.sh" <<'PYTHON' || die "$url can not be fetched (see above)"
import os, shutil, ssl, sys, urllib.request

certificates = "/run/secrets/ca.crt"
given = os.path.isfile(certificates) and os.path.getsize(certificates) > 0
context = ssl.create_default_context(cafile=certificates if given else None)
try:
    with urllib.request.urlopen(sys.argv[1], context=context, timeout=60) as answer, open(sys.argv[2], "wb") as file:
        shutil.copyfileobj(answer, file)
except OSError as error:
    sys.exit(f"miniforge: {error}")
PYTHON
found=$(sha256sum "$work/installer.sh")
[[ ${found%% *} == "$sha256" ]] || die "$url has sha256 ${found%% *}, and the pin is $sha256: fetch it again, or mend the pin"

# -b: no questions; -k: keep the packages, which the environment is made of.
bash "$work/installer.sh" -b -k -p "$miniforge" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    die "the installer from $url failed (see above)"
}
# The classic solver, since the other one needs an index in its cache, which a fresh installation has not (conda-libmamba-solver, issue 396).
"$miniforge/bin/conda" create --quiet --yes --offline --solver classic --prefix "$environment" "python=$python" ||
    die "conda could not make the environment from the installer's own packages (see above)"
# conda puts these beside pip, and the lock says which of them the environment has.
if [[ -x $environment/bin/pip ]]; then
    "$environment/bin/pip" uninstall --quiet --yes --root-user-action ignore setuptools wheel
fi
"$miniforge/bin/conda" clean --quiet --yes --all --force-pkgs-dirs
# By this, `conda activate yolov12` finds it by its name.
"$miniforge/bin/conda" config --system --add envs_dirs "${environment%/*}"

found=$("$environment/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $found == "$python" ]] || die "the environment has Python $found, and the lock is for $python"
