// SPDX-License-Identifier: AGPL-3.0-or-later
// Attention of a few hundred tokens in inference: softmax(q k^T / sqrt(32)) v for heads of 32 numbers, which all area attention of YOLOv12 has.
//
// FlashAttention cuts 128 rows of queries at a time: at batch 1 that is some thirty blocks for a GPU of over a hundred multiprocessors. Here a
// block has 64, each of its warps 16, and keys and values pass by 64 at a time, on their way while those before them are multiplied. Scores never leave
// registers. Sums are float32, weights are rounded to the type of v as FlashAttention does, and equal inputs give equal bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

constexpr int kHeadNumbers = 32;

// Numbers of a head side by side; distances in elements, multiples of 8, and `data` at 16 bytes.
struct Heads {
  void* data;
  int64_t sequence;  // from one sequence to the next
  int64_t token;
  int64_t head;
};

struct Attention {
  int sequences;
  int tokens;  // of each
  int heads;
  Type type;  // kHalf or kBFloat16
};

// `early` as for `fused_conv`.
void attend(const Attention& shape, Heads q, Heads k, Heads v, Heads out, bool early, cudaStream_t stream);

}  // namespace yolov12_kernels
