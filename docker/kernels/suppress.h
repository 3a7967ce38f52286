// SPDX-License-Identifier: AGPL-3.0-or-later
// Non-maximum suppression of a few hundred candidates an image, from a head's predictions to rows in pixels of the picture, in two kernels.
//
// The first looks for the best class of each anchor and keeps those above the confidence; one block of the second sorts an image's candidates,
// lets them fall on each other, and writes what stands. Torch needs some ninety operations for it (yolov12/engine/scoring/fixed.py), and their answer
// is this one's to the bit: numbers are rounded where torch rounds them. Only `right` can differ: a chain of boxes that suppress each other is gone
// through to its end here, however long.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

constexpr int kRoom = 512;   // candidates of an image; with more it is not right. `fixed.ROOM` is the same number
constexpr int kColumns = 6;  // of a row: x1, y1, x2, y2, score, class

struct Predicted {
  const void* data;  // (images, 4 + classes, anchors): boxes as centre and size in pixels of the network's input, and scores
  int images;
  int anchors;
  int classes;
  Type type;
};

struct Rules {
  float confidence;     // a box counts from above this score, which is rounded to the predictions' type first, as torch does
  float iou;            // and falls from above this overlap with a better one
  bool agnostic;        // boxes of different classes suppress each other
  const float* wanted;  // the classes that are looked for
  int wanted_count;     // -1: all are
};

// From pixels of the network's input to those of the picture: less the padding, times one over the gain, clipped to the picture.
struct Placing {
  bool is_asked;  // else pixels stay as they are
  float padding[2];
  float inverse_gain[2];
  float limit[2];  // width and height
};

// On the device. `found` is zero before.
struct Candidates {
  unsigned long long* keys;  // (images, kRoom), which sort by score, best first, and of equal scores by anchor
  int* labels;               // (images, anchors), of those that are candidates
  int* found;                // (images)
};

// `y` is (images, most + 1, kColumns): the `most` best rows, then zeros. The last row is the number of rows, and 1 if the answer is right, else 0.
void suppress(const Predicted& predicted, const Rules& rules, const Placing& placing, const Candidates& candidates, int most, float* y,
              cudaStream_t stream);

}  // namespace yolov12_kernels
