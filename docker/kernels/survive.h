// SPDX-License-Identifier: AGPL-3.0-or-later
// Greedy suppression of ranked boxes, any number of them an image, by one kernel: what stands of a validation's candidates.
//
// A block of the kernel goes through an image's candidates, a few hundred at a time: those on which nothing falls that stands so far are held against
// each other, and what is left of them stands, too. It ends at the candidates' end, or when as many stand as are asked for. Torch needs some
// thirty operations and a wait for every such part (yolov12/engine/scoring/suppression.py), and its answer is this one's to the bit.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace yolov12_kernels {

constexpr int kMostStanding = 1024;  // of an image, in the memory that a block's threads share. `survive.MOST` is the same number

// On the device.
struct Ranked {
  const float* boxes;    // (n, 4): x1, y1, x2, y2, moved apart by class, of all images
  const int64_t* order;  // (images, most): places among `boxes`, best first; behind an image's length any
  const int* lengths;    // (images): how many count
  int images;
  int most;
};

// `kept` is (images, limit): places among `boxes` of what stands, best first, then -1; `counts` is (images). At most kMostStanding are asked for.
void survive(const Ranked& ranked, float iou, int limit, int64_t* kept, int* counts, cudaStream_t stream);

}  // namespace yolov12_kernels
