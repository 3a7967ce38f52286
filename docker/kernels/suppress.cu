// SPDX-License-Identifier: AGPL-3.0-or-later
#include "suppress.h"

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "numbers.cuh"
#include "overlap.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kAnchors = 64;        // of a block of the first kernel
constexpr int kParts = 4;           // into which it divides the classes, so that batch 1 fills a GPU
constexpr int kBits = 32;           // of a word: candidates in it
constexpr int kWords = kRoom / kBits;
constexpr float kClassOffset = 7680.0f;  // pixels between boxes of two classes, as upstream has it (utils/nms.py)
constexpr unsigned kSign = 0x80000000u;

// Unsigned numbers in the order of the scores, worst first, and back.
__device__ inline unsigned ordered(float score) {
  const unsigned bits = __float_as_uint(score);
  return bits & kSign ? ~bits : bits | kSign;
}
__device__ inline float score_of(unsigned place) { return __uint_as_float(place & kSign ? place & ~kSign : ~place); }

struct Best {
  float score;
  int label;
};

// Of two, the first where they are equal; a score that is no number wins, as in torch.max, and is above no confidence.
__device__ inline Best better(const Best& first, const Best& second) {
  return second.score > first.score || (second.score != second.score && first.score == first.score) ? second : first;
}

__device__ inline bool is_wanted(int label, const Rules& rules) {
  if (rules.wanted_count < 0) return true;
  for (int i = 0; i < rules.wanted_count; ++i) {
    if (rules.wanted[i] == static_cast<float>(label)) return true;
  }
  return false;
}

template <typename T>
__global__ void __launch_bounds__(kAnchors* kParts) candidates_kernel(const Predicted of, const Rules rules, const Candidates into) {
  __shared__ Best bests[kParts][kAnchors];
  const int lane = threadIdx.x % kAnchors, part = threadIdx.x / kAnchors;
  const int anchor = blockIdx.x * kAnchors + lane, image = blockIdx.y;
  const int some = (of.classes + kParts - 1) / kParts;
  const int begin = part * some, end = begin + some < of.classes ? begin + some : of.classes;
  Best best{-INFINITY, begin};
  if (anchor < of.anchors) {
    const T* const scores = static_cast<const T*>(of.data) + (static_cast<int64_t>(image) * (4 + of.classes) + 4) * of.anchors + anchor;
#pragma unroll 8
    for (int label = begin; label < end; ++label) best = better(best, {to_float(scores[static_cast<int64_t>(label) * of.anchors]), label});
  }
  bests[part][lane] = best;
  __syncthreads();
  if (part > 0 || anchor >= of.anchors) return;
  for (int other = 1; other < kParts; ++other) best = better(best, bests[other][lane]);
  if (!(best.score > to_float(from_float<T>(rules.confidence))) || !is_wanted(best.label, rules)) return;
  const int place = atomicAdd(into.found + image, 1);
  if (place >= kRoom) return;
  const unsigned long long rank = ~ordered(best.score);
  into.keys[static_cast<int64_t>(image) * kRoom + place] = rank << 32 | static_cast<unsigned>(anchor);
  into.labels[static_cast<int64_t>(image) * of.anchors + anchor] = best.label;
}

// Ascending. `count` is a power of two; all threads of the block call it.
__device__ inline void sort(unsigned long long* keys, int count) {
  const int mine = threadIdx.x;
  for (int length = 2; length <= count; length *= 2) {
    for (int distance = length / 2; distance > 0; distance /= 2) {
      const int other = mine ^ distance;
      if (mine < count && other > mine) {
        const unsigned long long a = keys[mine], b = keys[other];
        if ((a > b) == ((mine & length) == 0)) {
          keys[mine] = b;
          keys[other] = a;
        }
      }
      __syncthreads();
    }
  }
}

// The corners of an anchor's box, as torch computes them in the predictions' type.
template <typename T>
__device__ Corners corners_of(const Predicted& of, int image, int anchor) {
  const T* const from = static_cast<const T*>(of.data) + static_cast<int64_t>(image) * (4 + of.classes) * of.anchors + anchor;
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = to_float(from[static_cast<int64_t>(i) * of.anchors]);
  const float half_width = to_float(from_float<T>(values[2] / 2)), half_height = to_float(from_float<T>(values[3] / 2));
  return {to_float(from_float<T>(values[0] - half_width)), to_float(from_float<T>(values[1] - half_height)),
          to_float(from_float<T>(values[0] + half_width)), to_float(from_float<T>(values[1] + half_height))};
}

__device__ inline float placed(float x, float padding, float inverse_gain, float limit) {
  const float scaled = (x - padding) * inverse_gain;
  return scaled < 0.0f ? 0.0f : scaled > limit ? limit : scaled;
}

// One block of kRoom threads for an image, a thread for each candidate.
template <typename T>
__global__ void __launch_bounds__(kRoom) stands_kernel(const Predicted of, const Rules rules, const Placing placing, const Candidates from,
                                                       int most, float* y) {
  __shared__ unsigned long long keys[kRoom];
  __shared__ Corners boxes[kRoom];  // moved apart by class
  __shared__ float areas[kRoom];
  __shared__ unsigned falls[kWords][kRoom];  // bit b of falls[w][i]: candidate 32 w + b, which is worse than i, falls on it
  __shared__ unsigned stands[kWords];
  const int mine = threadIdx.x, image = blockIdx.x;
  const int found = from.found[image], count = found < kRoom ? found : kRoom, words = (count + kBits - 1) / kBits;
  int length = 1;
  while (length < count) length *= 2;

  if (mine < length) keys[mine] = mine < count ? from.keys[static_cast<int64_t>(image) * kRoom + mine] : ~0ull;
  __syncthreads();
  sort(keys, length);

  Corners box{};
  float score = 0.0f, label = 0.0f;
  if (mine < count) {
    const int anchor = static_cast<int>(keys[mine] & 0xffffffffu);
    box = corners_of<T>(of, image, anchor);
    score = score_of(~static_cast<unsigned>(keys[mine] >> 32));
    label = static_cast<float>(from.labels[static_cast<int64_t>(image) * of.anchors + anchor]);
    const float apart = __fmul_rn(label, rules.agnostic ? 0.0f : kClassOffset);
    boxes[mine] = {box.x1 + apart, box.y1 + apart, box.x2 + apart, box.y2 + apart};
    areas[mine] = area_of(boxes[mine]);
  }
  if (mine < words) stands[mine] = mine + 1 < words || count % kBits == 0 ? ~0u : (1u << count % kBits) - 1;
  __syncthreads();

  if (mine < count) {
    for (int word = mine / kBits; word < words; ++word) {
      unsigned bits = 0;
      for (int bit = 0; bit < kBits; ++bit) {
        const int other = word * kBits + bit;
        if (other > mine && other < count && overlap(boxes[mine], areas[mine], boxes[other], areas[other], rules.iou)) bits |= 1u << bit;
      }
      falls[word][mine] = bits;
    }
  }
  __syncthreads();

  // Word by word: what is left of a word settles by itself, one after the other; then all words behind it lose what falls on its boxes.
  for (int word = 0; word < words; ++word) {
    if (mine == 0) {
      unsigned left = stands[word];
#pragma unroll
      for (int bit = 0; bit < kBits; ++bit) {
        const int other = word * kBits + bit;
        if (other < count && left >> bit & 1u) left &= ~falls[word][other];
      }
      stands[word] = left;
    }
    __syncthreads();
    if (mine > word && mine < words) {
      const unsigned left = stands[word];
      unsigned fallen = 0;
#pragma unroll
      for (int bit = 0; bit < kBits; ++bit) {
        if (left >> bit & 1u) fallen |= falls[mine][word * kBits + bit];
      }
      stands[mine] &= ~fallen;
    }
    __syncthreads();
  }

  float* const rows = y + static_cast<int64_t>(image) * (most + 1) * kColumns;
  int before = 0, total = 0;  // standing ones before mine, and of all
  for (int word = 0; word < words; ++word) {
    const unsigned bits = stands[word];
    total += __popc(bits);
    if (word < mine / kBits) before += __popc(bits);
    if (word == mine / kBits) before += __popc(bits & ((1u << mine % kBits) - 1));
  }
  if (mine < count && stands[mine / kBits] >> mine % kBits & 1u && before < most) {
    float* const row = rows + static_cast<int64_t>(before) * kColumns;
    row[0] = placing.is_asked ? placed(box.x1, placing.padding[0], placing.inverse_gain[0], placing.limit[0]) : box.x1;
    row[1] = placing.is_asked ? placed(box.y1, placing.padding[1], placing.inverse_gain[1], placing.limit[1]) : box.y1;
    row[2] = placing.is_asked ? placed(box.x2, placing.padding[0], placing.inverse_gain[0], placing.limit[0]) : box.x2;
    row[3] = placing.is_asked ? placed(box.y2, placing.padding[1], placing.inverse_gain[1], placing.limit[1]) : box.y2;
    row[4] = score;
    row[5] = label;
  }
  const int written = total < most ? total : most;
  for (int i = written * kColumns + mine; i < most * kColumns; i += kRoom) rows[i] = 0.0f;
  if (mine < kColumns) rows[most * kColumns + mine] = mine == 0 ? static_cast<float>(written) : mine == 1 && found <= kRoom ? 1.0f : 0.0f;
}

}  // namespace

void suppress(const Predicted& predicted, const Rules& rules, const Placing& placing, const Candidates& candidates, int most, float* y,
              cudaStream_t stream) {
  const dim3 blocks((predicted.anchors + kAnchors - 1) / kAnchors, predicted.images);
  with_type(predicted.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    candidates_kernel<T><<<blocks, kAnchors * kParts, 0, stream>>>(predicted, rules, candidates);
    stands_kernel<T><<<predicted.images, kRoom, 0, stream>>>(predicted, rules, placing, candidates, most, y);
  });
}

}  // namespace yolov12_kernels
