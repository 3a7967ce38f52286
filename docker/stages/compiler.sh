#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# compiler.sh: what torch.compile calls at run time. On a GPU Triton compiles a launcher for each kernel (C, Python.h); on the CPU
# Inductor's kernels are C++ with OpenMP.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

use_secrets
install_debian gcc g++ libpython3-dev
forget_debian

# Nothing here links statically, with link-time optimisation or with sanitizers.
shopt -s nullglob
rm -f /usr/lib/python3*/config-*/*.a /usr/lib/x86_64-linux-gnu/lib{python3*,c,m-*,expat}.a \
    /usr/lib/gcc/*/*/lto1 /usr/lib/gcc/*/*/lib{a,l,t,ub,hwa}san.a /usr/lib/x86_64-linux-gnu/lib{a,l,t,ub,hwa}san.so*
