// SPDX-License-Identifier: AGPL-3.0-or-later
// Concatenation, sum, copy and doubling of NHWC tensors in one pass: what lies between a network's convolutions.
//
//     join    writes ranges of channels side by side, each the sum of some sources; a source may be some channels of a wider tensor, and may have
//             half the height and width, each of its pixels then being read for four (nearest upsampling)
//     halve   sums each two by two pixels: the gradient of that upsampling
// torch needs a pass for each of these, and the slowest of its kernels where a source does not lie by itself. Sums are float32, in the order of the
// sources, and rounded once; a range of one source is copied to the bit.
#pragma once

#include <cuda_runtime.h>

#include "batch_norm_act.h"

namespace yolov12_kernels {

constexpr int kMostSources = 16, kMostRanges = 8, kMostTerms = 4;

struct JoinSource {
  Rows rows;
  bool doubled;
};

// Counted in 16-byte vectors of channels.
struct JoinRange {
  int begin;
  int end;
  int first;  // of its sources
  int terms;  // how many they are
};

struct Join {
  JoinSource sources[kMostSources];
  JoinRange ranges[kMostRanges];  // from 0 on without gaps
  int sources_count;
  int ranges_count;
  int images;  // of the result, and so on
  int height;
  int width;
  Type type;
};

// `out` is dense: a row holds the channels of all ranges. Where a source is doubled, height and width are even and each range has one source.
void join(const Join& plan, void* out, cudaStream_t stream);

// `out` is dense, (images, height, width, channels); `x` has twice its height and width.
void halve(Rows x, void* out, int images, int height, int width, int channels, Type type, cudaStream_t stream);

}  // namespace yolov12_kernels
