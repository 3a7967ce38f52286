#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# environment.sh LOCK [WHEELS]: install into the environment /opt/yolov12 exactly what a part of the hash lock lists (it may be empty),
# without what is never used, and compile its Python files. With WHEELS, a folder that has pip's: pip too.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

lock=$1 wheels=${2-}
environment=/opt/yolov12
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON=$environment/bin/python UV_PYTHON_DOWNLOADS=never PYTHONDONTWRITEBYTECODE=1
use_secrets
uv=/opt/installer/bin/uv

[[ -d $environment ]] || python3 -m venv --without-pip "$environment"
began=$(mktemp)
trap 'rm -f "$began"' EXIT
if [[ -s $lock ]]; then
    "$uv" pip install --quiet --require-hashes --no-deps --no-build --requirement "$lock"
fi
site=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
tag=$("$environment/bin/python" -c 'import sys; print(sys.implementation.cache_tag)') # cpython-311

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
    # For compiling against DALI, and a program of its compression library. Its libraries for Amazon's and Google's storage stay: they are linked.
    nvidia/{dali,nvimgcodec,libnvcomp,nvjpeg2k,nvtiff}/include nvidia/libnvcomp/{bin,lib64/cmake}
)
rm -rf "${unused[@]}"
# DALI carries its Python modules once for every Python.
for module in nvidia/{dali,nvimgcodec}/*.cpython-*.so; do
    [[ $module == *."$tag"-* ]] || rm "$module"
done
# Three of DALI's wheels bring this file, empty or with this line; which is written last is chance.
if [[ -f nvidia/__init__.py ]]; then
    echo "__path__ = __import__('pkgutil').extend_path(__path__, __name__)" >nvidia/__init__.py
fi
# Triton imports every backend that its metadata names.
for names in triton-*.dist-info/entry_points.txt; do
    sed -i '/^amd = \|^proton/d' "$names"
done
# The debugging symbols of the compiler inside Triton are two thirds of it. The dynamic symbols stay.
compiler=triton/_C/libtriton.so
if [[ -f $compiler && $(readelf --section-headers --wide "$compiler") == *.debug_info* ]]; then
    strip --strip-debug "$compiler"
fi
# So are a seventh of DALI's its symbols for a linker.
for library in nvidia/dali/libdali*.so nvidia/dali/.libs/libcvcuda*; do
    if [[ $(readelf --section-headers --wide "$library") == *.symtab* ]]; then
        strip --strip-unneeded "$library"
    fi
done

if [[ -n $wheels ]]; then
    # Not used by the image; there for `RUN pip install ...` in images made from it. Debian's own wheel, so that Debian's fixes come with it;
    # conda brings one for its own Python.
    [[ -x $environment/bin/pip ]] || "$uv" pip install --quiet --no-deps --no-index "$wheels"/pip-*.whl
fi
# Compiled now, and not checked against the source later: a read-only root starts as fast as any, and timestamps do not matter. Only what this
# part brought: a file of another layer would be in this one too.
find "$environment/lib" -name '*.py' -cnewer "$began" -print0 |
    xargs -0 -r -n 200 -P "$(nproc)" "$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash
forget_uv "$environment"
