// SPDX-License-Identifier: AGPL-3.0-or-later
// How memory is read and written: 16 bytes at a time, which is the most of one instruction.
#pragma once

namespace yolov12_kernels {

constexpr int kLoadBytes = 16;
constexpr int kNumbersOfLoad = 8;  // of half precision

}  // namespace yolov12_kernels
