#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# environment.sh LOCK [WHEELS]: install into the environment /opt/yolov12 exactly what a part of the hash lock lists, without what is
# never used. With WHEELS, a folder that has pip's, this is the last part: pip, and all Python files compiled.
set -euo pipefail

lock=$1 wheels=${2-}
environment=/opt/yolov12
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON=$environment/bin/python UV_PYTHON_DOWNLOADS=never PYTHONDONTWRITEBYTECODE=1
if [[ -s /run/secrets/ca.crt ]]; then
    export SSL_CERT_FILE=/run/secrets/ca.crt
fi
uv=/opt/installer/bin/uv

[[ -d $environment ]] || python3 -m venv --without-pip "$environment"
"$uv" pip install --quiet --require-hashes --no-deps --no-build --requirement "$lock"
site=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# In the layer that brought it, or it would still be pulled. Each line was measured, and tests/image runs what stays.
cd "$site"
shopt -s nullglob
unused=(
    # Another vendor's GPUs, and Triton's profiler (the command `proton`), which alone needs this copy of CUPTI.
    triton/{backends/amd,backends/nvidia/lib/cupti,instrumentation,profiler,FileCheck,_C/libproton.so} ../../../bin/proton{,-viewer}
    # For linking statically, for several GPUs in one cuSOLVER call, and a second NVRTC: no library of the environment asks for them.
    nvidia/*/lib/*.a nvidia/*/lib/{libcusolverMg,libnvrtc.alt,libnvrtc-builtins.alt}.so*
    torch/bin/protoc*
    {matplotlib,sympy/*,networkx/*,networkx/*/*,mpmath}/tests onnx/backend/test/data
)
rm -rf "${unused[@]}"
# Triton imports every backend that its metadata names.
for names in triton-*.dist-info/entry_points.txt; do
    sed -i '/^amd = \|^proton/d' "$names"
done
# The debugging symbols of the compiler inside Triton are two thirds of it. The dynamic symbols stay.
compiler=triton/_C/libtriton.so
if [[ -f $compiler && $(readelf --section-headers --wide "$compiler") == *.debug_info* ]]; then
    strip --strip-debug "$compiler"
fi

if [[ -n $wheels ]]; then
    # Not used by the image; there for `RUN pip install ...` in images made from it. Debian's own wheel, so that Debian's fixes come with it;
    # conda brings one for its own Python.
    [[ -x $environment/bin/pip ]] || "$uv" pip install --quiet --no-deps --no-index "$wheels"/pip-*.whl
    # Compiled now, and not checked against the source later: a read-only root starts as fast as any, and timestamps do not matter.
    "$environment/bin/python" -m compileall -q -f -j 0 --invalidation-mode unchecked-hash "$environment/lib"
fi
rm -f "$environment/.lock" # uv's, and writable by anyone
