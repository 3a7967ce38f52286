# SPDX-License-Identifier: AGPL-3.0-or-later
# shellcheck shell=bash
# `conda activate yolov12`, as scripts and tutorials have it. Read by every bash of the image.

# For the image that has a venv and no conda.
conda() {
    case "${1-} ${2-yolov12}" in
    "activate yolov12")
        # shellcheck source=/dev/null
        . /opt/yolov12/bin/activate
        export CONDA_DEFAULT_ENV=yolov12
        ;;
    "deactivate "*)
        unset CONDA_DEFAULT_ENV
        if declare -F deactivate >/dev/null; then
            deactivate
        fi
        ;;
    *)
        printf 'conda: %s\n' "this image has the environment yolov12 (a venv in /opt/yolov12, active from the start) and no conda;" \
            "only \`conda activate yolov12\` and \`conda deactivate\` are understood. To add packages: pip install" >&2
        return 2
        ;;
    esac
}

# conda's own, where the image has one (ENV_MANAGER=conda).
if [[ -r /opt/miniforge/etc/profile.d/conda.sh ]]; then
    # shellcheck source=/dev/null
    . /opt/miniforge/etc/profile.d/conda.sh
fi

# A login shell has just reset PATH (/etc/profile).
case :$PATH: in
*:/opt/yolov12/bin:*) ;;
*) PATH=/opt/yolov12/bin:$PATH ;;
esac
