// SPDX-License-Identifier: AGPL-3.0-or-later
// What a detection head's last convolutions leave as its predictions: boxes from the distributions of their sides, and scores from logits.
//
// torch needs a dozen kernels for it, half of which turn pixels of channels into channels of pixels. This one reads the first, as convolutions in
// NHWC write them, and writes the second, computed in float32 and rounded once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

constexpr int kBins = 16;       // of the distribution of each side of a box
constexpr int kMostLevels = 5;  // maps of a head

struct Levels {
  int count;
  int begins[kMostLevels];  // which of an image's anchors is the first of the level; they follow each other row after row
  int widths[kMostLevels];
};

struct Decoded {
  int images;
  int anchors;
  int classes;
  int score_width;  // numbers of each anchor's row of scores, of which the first `classes` count; a multiple of 8
  Type type;        // kHalf or kBFloat16
  bool has_centres;  // boxes as centre and size, else as two corners
};

// `boxes` is (images, anchors, 4, kBins), `scores` (images, anchors, score_width), `strides` in pixels for each level; `y` is (images, 4 + classes,
// anchors) in pixels. `early` as for `fused_conv`.
void decode(const Decoded& shape, const Levels& levels, const void* boxes, const void* scores, const float* strides, void* y, bool early,
            cudaStream_t stream);

}  // namespace yolov12_kernels
