#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# miniforge.sh INSTALLER PYTHON: Miniforge in /opt/miniforge, and with it the environment /opt/yolov12, which has that Python and no more.
# Nothing is fetched: the environment is made of the packages that the installer brings.
set -euo pipefail

installer=$1 python=$2
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

# -b: no questions; -k: keep the packages, which the environment is made of.
bash "$installer" -b -k -p "$miniforge" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    die "the installer failed (see above)"
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
