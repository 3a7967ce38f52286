// SPDX-License-Identifier: AGPL-3.0-or-later
// How many blocks of a kernel something is divided into.
#pragma once

namespace yolov12_kernels {

inline int blocks_for(int all, int each) { return (all + each - 1) / each; }

}  // namespace yolov12_kernels
