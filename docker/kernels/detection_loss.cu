// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <climits>
#include <type_traits>

#include "detection_loss.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kChooseThreads = 128;
constexpr int kOneBlock = 1024;
constexpr int kMostBlocks = 1024;  // of a level's scores, each with a partial sum
constexpr int kSums = 3;           // of a block of pairs: class, box, distribution
constexpr float kInsideEpsilon = 1e-9f;  // utils/tal.py:315
constexpr float kWeightEpsilon = 1e-9f;  // utils/tal.py:46
constexpr float kOverlapEpsilon = 1e-7f; // utils/metrics.py:115
constexpr float kLastBin = kBins - 1 - 0.01f;

// x1, y1, x2, y2 of any number type.
template <typename N>
struct Corners {
  N x1, y1, x2, y2;
};

// A number with its derivatives by the four sides of the predicted box.
struct Dual {
  float value;
  float by[kSides];
  __device__ Dual(float v) : value(v), by{} {}
  __device__ Dual(float v, int side) : value(v), by{} { by[side] = 1.0f; }
};
__device__ Dual scaled(float value, const Dual& a, float by_a, const Dual& b, float by_b) {
  Dual result(value);
#pragma unroll
  for (int i = 0; i < kSides; ++i) result.by[i] = by_a * a.by[i] + by_b * b.by[i];
  return result;
}
__device__ Dual operator+(const Dual& a, const Dual& b) { return scaled(a.value + b.value, a, 1.0f, b, 1.0f); }
__device__ Dual operator-(const Dual& a, const Dual& b) { return scaled(a.value - b.value, a, 1.0f, b, -1.0f); }
__device__ Dual operator*(const Dual& a, const Dual& b) { return scaled(a.value * b.value, a, b.value, b, a.value); }
__device__ Dual operator/(const Dual& a, const Dual& b) {
  return scaled(a.value / b.value, a, 1.0f / b.value, b, -a.value / (b.value * b.value));
}
__device__ Dual least(const Dual& a, const Dual& b) { return a.value < b.value ? a : b; }
__device__ Dual most(const Dual& a, const Dual& b) { return a.value > b.value ? a : b; }
__device__ Dual arc_tangent(const Dual& a) { return scaled(atanf(a.value), a, 1.0f / (1.0f + a.value * a.value), a, 0.0f); }
__device__ float value_of(const Dual& a) { return a.value; }

__device__ float least(float a, float b) { return fminf(a, b); }
__device__ float most(float a, float b) { return fmaxf(a, b); }
__device__ float arc_tangent(float a) { return atanf(a); }
__device__ float value_of(float a) { return a; }

// Complete IoU (arXiv 1911.08287) of a predicted box and an object's, as in utils/metrics.py:108.
template <typename N>
__device__ N complete_iou(const Corners<N>& a, const Corners<float>& b) {
  const N width_a = a.x2 - a.x1, height_a = a.y2 - a.y1 + N(kOverlapEpsilon);
  const float width_b = b.x2 - b.x1, height_b = b.y2 - b.y1 + kOverlapEpsilon;
  const N zero(0.0f);
  const N inside = most(least(a.x2, N(b.x2)) - most(a.x1, N(b.x1)), zero) * most(least(a.y2, N(b.y2)) - most(a.y1, N(b.y1)), zero);
  const N iou = inside / (width_a * height_a + N(width_b * height_b) - inside + N(kOverlapEpsilon));
  const N hull_width = most(a.x2, N(b.x2)) - least(a.x1, N(b.x1)), hull_height = most(a.y2, N(b.y2)) - least(a.y1, N(b.y1));
  const N diagonal = hull_width * hull_width + hull_height * hull_height + N(kOverlapEpsilon);
  const N dx = N(b.x1 + b.x2) - a.x1 - a.x2, dy = N(b.y1 + b.y2) - a.y1 - a.y2;
  const N angle = N(atanf(width_b / height_b)) - arc_tangent(width_a / height_a);
  constexpr float kFourOverPiSquared = 0.40528473456935109f;
  const N shape = N(kFourOverPiSquared) * angle * angle;
  // How much the shape counts has no gradient.
  const float alpha = value_of(shape) / (1.0f - value_of(iou) + value_of(shape) + kOverlapEpsilon);
  return iou - ((dx * dx + dy * dy) / N(4.0f) / diagonal + shape * N(alpha));
}

// An anchor's place: its level, and its centre in cells of that level.
struct Anchor {
  int level;
  int in_level;
  float x, y;
};

__device__ Anchor anchor_at(const Head& head, int anchor) {
  int level = 0;
  while (level + 1 < head.count && anchor >= head.levels[level + 1].first) ++level;
  const int at = anchor - head.levels[level].first, width = head.levels[level].width;
  return {level, at, at % width + 0.5f, at / width + 0.5f};
}

template <typename T>
__device__ const T* element(const Plane& plane, int image, int channel, int anchor) {
  return static_cast<const T*>(plane.data) + image * plane.of_image + channel * plane.of_channel + anchor * plane.of_anchor;
}

// The distribution of one distance: its logits, and what follows from them.
template <typename T>
__device__ void load_bins(const Plane& plane, int image, int side, int anchor, float (&logits)[kBins]) {
  const T* from = element<T>(plane, image, side * kBins, anchor);
  if (plane.of_channel == 1 && reinterpret_cast<uintptr_t>(from) % kLoadBytes == 0) {
    constexpr int kSize = Vector<T>::kSize;
#pragma unroll
    for (int begin = 0; begin < kBins; begin += kSize) {
      const Vector<T> loaded = *reinterpret_cast<const Vector<T>*>(from + begin);
#pragma unroll
      for (int i = 0; i < kSize; ++i) logits[begin + i] = to_float(loaded.values[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kBins; ++i) logits[i] = to_float(from[i * plane.of_channel]);
}

// Turns logits into probabilities; returns the logarithm of what they were divided by, with the maximum.
__device__ float softmax(float (&bins)[kBins]) {
  float largest = bins[0];
#pragma unroll
  for (int i = 1; i < kBins; ++i) largest = fmaxf(largest, bins[i]);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kBins; ++i) {
    bins[i] = expf(bins[i] - largest);
    sum += bins[i];
  }
#pragma unroll
  for (int i = 0; i < kBins; ++i) bins[i] /= sum;
  return largest + logf(sum);
}

__device__ float expectation(const float (&probabilities)[kBins]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kBins; ++i) sum += i * probabilities[i];
  return sum;
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// An object, in pixels.
struct Object {
  int image, label;
  Corners<float> box;
};

constexpr int kColumns = 6;

__device__ Object object_at(const Head& head, const Objects& objects, int at) {
  const float* row = objects.rows + static_cast<int64_t>(at) * kColumns;
  const Level& finest = head.levels[0];
  const float width = finest.width * finest.stride, height = finest.height * finest.stride;
  const float x = row[2] * width, y = row[3] * height, half_width = row[4] * width / 2, half_height = row[5] * height / 2;
  Object object{static_cast<int>(row[0]), static_cast<int>(row[1]), {x - half_width, y - half_height, x + half_width, y + half_height}};
  const Corners<float>& box = object.box;
  // Padding, and what upstream takes for padding (utils/loss.py:449).
  if (row[0] < 0.0f || !(box.x1 + box.y1 + box.x2 + box.y2 > 0.0f)) object.image = -1;
  return object;
}

// Where an object looks for anchors: its box, with sides of at least `least_side` (utils/tal.py:315).
__device__ Corners<float> search_area(const Corners<float>& box, float least_side) {
  const float x = (box.x1 + box.x2) / 2, y = (box.y1 + box.y2) / 2;
  float width = box.x2 - box.x1, height = box.y2 - box.y1;
  width = width < least_side ? least_side : width;
  height = height < least_side ? least_side : height;
  return {x - width / 2, y - height / 2, x + width / 2, y + height / 2};
}

__device__ bool is_inside(const Corners<float>& area, float x, float y) {
  return x - area.x1 > kInsideEpsilon && y - area.y1 > kInsideEpsilon && area.x2 - x > kInsideEpsilon && area.y2 - y > kInsideEpsilon;
}

// The box that is predicted at an anchor, in pixels.
__device__ Corners<float> predicted(const Head& head, const float* distances, int image, int anchor, const Anchor& at) {
  const float* sides = distances + (static_cast<int64_t>(image) * head.anchors + anchor) * kSides;
  const float stride = head.levels[at.level].stride;
  return {(at.x - sides[0]) * stride, (at.y - sides[1]) * stride, (at.x + sides[2]) * stride, (at.y + sides[3]) * stride};
}

template <typename T>
__device__ float metric_of(const Head& head, const Rules& rules, int image, int label, int anchor, const Anchor& at, float overlap) {
  (void)anchor;
  const float score = sigmoid(to_float(*element<T>(head.levels[at.level].scores, image, label, at.in_level)));
  return powf(score, rules.alpha) * powf(overlap, rules.beta);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) decode(Head head, float* distances, int* is_broken) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= static_cast<int64_t>(head.images) * head.anchors * kSides) return;
  const int side = at % kSides, anchor = at / kSides % head.anchors, image = at / kSides / head.anchors;
  const Anchor place = anchor_at(head, anchor);
  float bins[kBins];
  load_bins<T>(head.levels[place.level].boxes, image, side, place.in_level, bins);
  softmax(bins);
  const float distance = expectation(bins);
  distances[at] = distance;
  if (!isfinite(distance)) *is_broken = 1;
}

// Metric and anchor in one number: a larger metric wins, and of equal ones the lower anchor.
__device__ unsigned long long key_of(float metric, int anchor) {
  return static_cast<unsigned long long>(__float_as_uint(metric)) << 32 | (0xffffffffu - static_cast<unsigned>(anchor));
}
__device__ int anchor_of(unsigned long long key) { return static_cast<int>(0xffffffffu - static_cast<unsigned>(key)); }

__device__ unsigned long long largest_of_block(unsigned long long key) {
  __shared__ unsigned long long shared[kChooseThreads / 32 + 1];
  for (int distance = 16; distance > 0; distance /= 2) {
    const unsigned long long other = __shfl_down_sync(0xffffffffu, key, distance);
    key = other > key ? other : key;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = key;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kChooseThreads / 32; ++warp) shared[0] = shared[warp] > shared[0] ? shared[warp] : shared[0];
  }
  __syncthreads();
  return shared[0];
}

// A block for each object.
template <typename T>
__global__ void __launch_bounds__(kChooseThreads) choose(Head head, Objects objects, Rules rules, Scratch scratch, Pairs pairs) {
  const int me = blockIdx.x;
  const Object object = object_at(head, objects, me);
  unsigned long long best[kMostCandidates] = {};  // falling; 0 is none, since a metric of 0 chooses nothing
  if (object.image >= 0) {
    const Corners<float> area = search_area(object.box, rules.least_side);
    for (int level = 0; level < head.count; ++level) {
      const Level& grid = head.levels[level];
      const int left = max(0, static_cast<int>(floorf(area.x1 / grid.stride - 1.0f))),
                top = max(0, static_cast<int>(floorf(area.y1 / grid.stride - 1.0f))),
                right = min(grid.width - 1, static_cast<int>(ceilf(area.x2 / grid.stride))),
                bottom = min(grid.height - 1, static_cast<int>(ceilf(area.y2 / grid.stride)));
      const int columns = right - left + 1, cells = max(0, columns) * max(0, bottom - top + 1);
      for (int cell = threadIdx.x; cell < cells; cell += kChooseThreads) {
        const int column = left + cell % columns, row = top + cell / columns;
        const Anchor at{level, row * grid.width + column, column + 0.5f, row + 0.5f};
        if (!is_inside(area, at.x * grid.stride, at.y * grid.stride)) continue;
        const int anchor = grid.first + at.in_level;
        const float overlap = fmaxf(complete_iou(predicted(head, scratch.distances, object.image, anchor, at), object.box), 0.0f);
        const float metric = metric_of<T>(head, rules, object.image, object.label, anchor, at, overlap);
        if (!(metric > 0.0f)) continue;
        unsigned long long key = key_of(metric, anchor);
        if (key <= best[kMostCandidates - 1]) continue;
#pragma unroll
        for (int i = 0; i < kMostCandidates; ++i) {
          if (key > best[i]) {
            const unsigned long long worse = best[i];
            best[i] = key;
            key = worse;
          }
        }
      }
    }
  }
  for (int i = 0; i < rules.candidates; ++i) {
    const unsigned long long winner = largest_of_block(best[0]);
    if (winner != 0 && best[0] == winner) {  // anchors differ, so this is one thread
#pragma unroll
      for (int j = 0; j + 1 < kMostCandidates; ++j) best[j] = best[j + 1];
      best[kMostCandidates - 1] = 0;
    }
    if (threadIdx.x != 0) continue;
    const int place = me * rules.candidates + i, anchor = winner == 0 ? -1 : anchor_of(winner);
    pairs.anchor[place] = anchor;
    if (anchor < 0) continue;
    const int64_t at = static_cast<int64_t>(object.image) * head.anchors + anchor;
    atomicMin(scratch.first + at, place);
    atomicMax(scratch.last + at, place);
  }
  if (threadIdx.x == 0 && object.image >= 0) scratch.next[me] = atomicExch(scratch.newest + object.image, me);
}

// Of non-negative numbers, whose bits have their order.
__device__ void raise_to(float* to, float value) { atomicMax(reinterpret_cast<int*>(to), __float_as_int(value)); }

template <typename T>
__global__ void __launch_bounds__(kThreads) settle(Head head, Objects objects, Rules rules, Scratch scratch, Pairs pairs) {
  const int place = blockIdx.x * kThreads + threadIdx.x;
  if (place >= objects.count * rules.candidates) return;
  const int anchor = pairs.anchor[place];
  if (anchor < 0) return;
  const int me = place / rules.candidates;
  const Object object = object_at(head, objects, me);
  const int64_t at = static_cast<int64_t>(object.image) * head.anchors + anchor;
  if (scratch.first[at] != place) {  // another place speaks for the anchor
    pairs.anchor[place] = -1;
    return;
  }
  const Anchor where = anchor_at(head, anchor);
  const Corners<float> box = predicted(head, scratch.distances, object.image, anchor, where);
  int winner = me;
  float overlap = fmaxf(complete_iou(box, object.box), 0.0f);
  if (scratch.last[at] != place) {
    const float stride = head.levels[where.level].stride;
    // In any order, so the lower number wins where overlaps are equal.
    for (int other = scratch.newest[object.image]; other >= 0; other = scratch.next[other]) {
      const Object rival = object_at(head, objects, other);
      if (!is_inside(search_area(rival.box, rules.least_side), where.x * stride, where.y * stride)) continue;
      const float its = fmaxf(complete_iou(box, rival.box), 0.0f);
      if (its > overlap || (its == overlap && other < winner)) {
        winner = other;
        overlap = its;
      }
    }
  }
  const int label = winner == me ? object.label : object_at(head, objects, winner).label;
  const float metric = metric_of<T>(head, rules, object.image, label, anchor, where, overlap);
  pairs.object[place] = winner;
  pairs.weight[place] = metric;
  raise_to(scratch.best_metric + winner, metric);
  raise_to(scratch.best_overlap + winner, overlap);
}

// In the order of the threads.
template <int kCount>
__device__ void sum_of_block(float (&values)[kCount]) {
  __shared__ float shared[32][kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    for (int distance = 16; distance > 0; distance /= 2) values[i] += __shfl_down_sync(0xffffffffu, values[i], distance);
  __syncthreads();
  if (threadIdx.x % 32 == 0)
    for (int i = 0; i < kCount; ++i) shared[threadIdx.x / 32][i] = values[i];
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 0; i < kCount; ++i) {
    float sum = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp][i];
    values[i] = sum;
  }
}

// One block: what counts, and the sum of it.
__global__ void __launch_bounds__(kOneBlock) weigh(int places, Scratch scratch, Pairs pairs, float* sums) {
  float sum[1] = {0.0f};
  for (int place = threadIdx.x; place < places; place += kOneBlock) {
    if (pairs.anchor[place] < 0) continue;
    const int object = pairs.object[place];
    const float weight = pairs.weight[place] * scratch.best_overlap[object] / (scratch.best_metric[object] + kWeightEpsilon);
    pairs.weight[place] = weight;
    sum[0] += weight;
  }
  sum_of_block(sum);
  if (threadIdx.x == 0) {
    sums[0] = fmaxf(sum[0], 1.0f);
    sums[1] = sum[0];
  }
}

__device__ float class_weight(const Rules& rules, const Plane& scores, int64_t at, int classes) {
  return rules.classes == nullptr ? 1.0f : rules.classes[at / scores.of_channel % classes];
}

// The losses of all scores as if nothing were to be found.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_scores(Plane scores, int64_t count, int classes, Rules rules, float* partials) {
  constexpr int kSize = Vector<T>::kSize;
  const T* values = static_cast<const T*>(scores.data);
  float sum[1] = {0.0f};
  const int64_t vectors = (count + kSize - 1) / kSize, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; v < vectors; v += step) {
    const int64_t begin = v * kSize;
    if (begin + kSize <= count) {
      const Vector<T> loaded = *reinterpret_cast<const Vector<T>*>(values + begin);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum[0] += softplus(to_float(loaded.values[i])) * class_weight(rules, scores, begin + i, classes);
    } else {
      for (int64_t i = begin; i < count; ++i) sum[0] += softplus(to_float(values[i])) * class_weight(rules, scores, i, classes);
    }
  }
  sum_of_block(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum[0];
}

// A pair as the losses see it, in cells of the anchor's level.
struct Pair {
  Anchor at;
  Object object;
  Corners<float> target;
  float weight;
  float distances[kSides];  // of the target, as bins
};

__device__ Pair pair_at(const Head& head, const Objects& objects, const Rules& rules, const Pairs& pairs, int place, int anchor) {
  (void)rules;
  Pair pair{anchor_at(head, anchor), object_at(head, objects, pairs.object[place]), {}, pairs.weight[place], {}};
  const float stride = head.levels[pair.at.level].stride;
  const Corners<float>& box = pair.object.box;
  pair.target = {box.x1 / stride, box.y1 / stride, box.x2 / stride, box.y2 / stride};
  const float sides[kSides] = {pair.at.x - pair.target.x1, pair.at.y - pair.target.y1, pair.target.x2 - pair.at.x,
                               pair.target.y2 - pair.at.y};
  for (int side = 0; side < kSides; ++side) pair.distances[side] = fminf(fmaxf(sides[side], 0.0f), kLastBin);
  return pair;
}

template <typename N>
__device__ Corners<N> around(const Anchor& at, const N (&sides)[kSides]) {
  return {N(at.x) - sides[0], N(at.y) - sides[1], N(at.x) + sides[2], N(at.y) + sides[3]};
}

template <typename T>
__global__ void __launch_bounds__(kThreads) sum_pairs(Head head, Objects objects, Rules rules, Pairs pairs, float* partials) {
  const int place = blockIdx.x * kThreads + threadIdx.x;
  const int anchor = place < objects.count * rules.candidates ? pairs.anchor[place] : -1;
  float sums[kSums] = {};
  if (anchor >= 0) {
    const Pair pair = pair_at(head, objects, rules, pairs, place, anchor);
    const Level& level = head.levels[pair.at.level];
    const float logit = to_float(*element<T>(level.scores, pair.object.image, pair.object.label, pair.at.in_level));
    sums[0] = -logit * pair.weight * (rules.classes == nullptr ? 1.0f : rules.classes[pair.object.label]);
    float sides[kSides];
    for (int side = 0; side < kSides; ++side) {
      float bins[kBins];
      load_bins<T>(level.boxes, pair.object.image, side, pair.at.in_level, bins);
      const float distance = pair.distances[side];
      const int left = static_cast<int>(distance);
      const float of_left = left + 1 - distance;
      float likely = 0.0f;
#pragma unroll
      for (int i = 0; i < kBins; ++i) likely += i == left ? bins[i] * of_left : i == left + 1 ? bins[i] * (1.0f - of_left) : 0.0f;
      const float total = softmax(bins);
      sides[side] = expectation(bins);
      sums[2] += (total - likely) * pair.weight / kSides;
    }
    sums[1] = (1.0f - complete_iou(around(pair.at, sides), pair.target)) * pair.weight;
  }
  sum_of_block(sums);
  if (threadIdx.x == 0)
    for (int i = 0; i < kSums; ++i) partials[static_cast<int64_t>(blockIdx.x) * kSums + i] = sums[i];
}

// One block.
__global__ void __launch_bounds__(kOneBlock)
    finish(const float* score_partials, int score_blocks, const float* pair_partials, int pair_blocks, Rules rules, const int* is_broken,
           const float* sums, float* losses) {
  float sum[kSums] = {};
  for (int i = threadIdx.x; i < score_blocks; i += kOneBlock) sum[0] += score_partials[i];
  for (int block = threadIdx.x; block < pair_blocks; block += kOneBlock)
    for (int i = 0; i < kSums; ++i) sum[i] += pair_partials[static_cast<int64_t>(block) * kSums + i];
  sum_of_block(sum);
  if (threadIdx.x != 0) return;
  // A box that is not finite poisons its loss, though no object may have chosen it.
  const float poison = *is_broken ? nanf("") : 0.0f;
  losses[0] = sum[1] / sums[0] * rules.gains[0] + poison;
  losses[1] = sum[0] / sums[0] * rules.gains[1];
  losses[2] = sum[2] / sums[0] * rules.gains[2];
}

template <typename T>
__global__ void __launch_bounds__(kThreads) score_gradient(Plane scores, int64_t count, int classes, Rules rules, const float* sums,
                                                           const float* grad_losses, T* grads) {
  constexpr int kSize = Vector<T>::kSize;
  const T* values = static_cast<const T*>(scores.data);
  const float factor = grad_losses[1] * rules.gains[1] / sums[0];
  const int64_t vectors = (count + kSize - 1) / kSize, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; v < vectors; v += step) {
    const int64_t begin = v * kSize;
    if (begin + kSize <= count) {
      const Vector<T> loaded = *reinterpret_cast<const Vector<T>*>(values + begin);
      Vector<T> made;
#pragma unroll
      for (int i = 0; i < kSize; ++i)
        made.values[i] = from_float<T>(sigmoid(to_float(loaded.values[i])) * factor * class_weight(rules, scores, begin + i, classes));
      *reinterpret_cast<Vector<T>*>(grads + begin) = made;
    } else {
      for (int64_t i = begin; i < count; ++i)
        grads[i] = from_float<T>(sigmoid(to_float(values[i])) * factor * class_weight(rules, scores, i, classes));
    }
  }
}

struct Gradients {
  void* boxes[kMostLevels];
  void* scores[kMostLevels];
};

// A pair's anchor has no other pair, so each element is written once.
template <typename T>
__global__ void __launch_bounds__(kThreads) pair_gradient(Head head, Objects objects, Rules rules, Pairs pairs, const float* sums,
                                                          const float* grad_losses, Gradients grads) {
  const int place = blockIdx.x * kThreads + threadIdx.x;
  const int anchor = place < objects.count * rules.candidates ? pairs.anchor[place] : -1;
  if (anchor < 0) return;
  const Pair pair = pair_at(head, objects, rules, pairs, place, anchor);
  const Level& level = head.levels[pair.at.level];
  const int image = pair.object.image, label = pair.object.label;
  {
    const float factor = grad_losses[1] * rules.gains[1] / sums[0] * (rules.classes == nullptr ? 1.0f : rules.classes[label]);
    const T* logit = element<T>(level.scores, image, label, pair.at.in_level);
    T* grad = static_cast<T*>(grads.scores[pair.at.level]) + (logit - static_cast<const T*>(level.scores.data));
    *grad = from_float<T>((sigmoid(to_float(*logit)) - pair.weight) * factor);
  }
  const Dual unknown(0.0f);
  Dual sides[kSides] = {unknown, unknown, unknown, unknown};
  for (int side = 0; side < kSides; ++side) {
    float bins[kBins];
    load_bins<T>(level.boxes, image, side, pair.at.in_level, bins);
    softmax(bins);
    sides[side] = Dual(expectation(bins), side);
  }
  const Dual overlap = complete_iou(around(pair.at, sides), pair.target);
  const float of_box = -grad_losses[0] * rules.gains[0] / sums[0] * pair.weight;
  const float of_bins = grad_losses[2] * rules.gains[2] / sums[0] * pair.weight / kSides;
  for (int side = 0; side < kSides; ++side) {
    float bins[kBins];
    load_bins<T>(level.boxes, image, side, pair.at.in_level, bins);
    softmax(bins);
    const float of_distance = of_box * overlap.by[side], distance = pair.distances[side];
    const int left = static_cast<int>(distance);
    const float of_left = left + 1 - distance;
    const T* logits = element<T>(level.boxes, image, side * kBins, pair.at.in_level);
    T* grad = static_cast<T*>(grads.boxes[pair.at.level]) + (logits - static_cast<const T*>(level.boxes.data));
#pragma unroll
    for (int i = 0; i < kBins; ++i) {
      const float wanted = i == left ? of_left : i == left + 1 ? 1.0f - of_left : 0.0f;
      const float value = bins[i] * (i - sides[side].value) * of_distance + (bins[i] - wanted) * of_bins;
      grad[i * level.boxes.of_channel] = from_float<T>(value);
    }
  }
}

int64_t blocks_of(int64_t items, int threads) { return (items + threads - 1) / threads; }

int64_t scores_of(const Head& head, const Level& level) {
  return static_cast<int64_t>(head.images) * head.classes * level.width * level.height;
}

int score_blocks(const Head& head, const Level& level) {
  const int64_t vectors = blocks_of(scores_of(head, level), elements_per_load(head.type));
  return static_cast<int>(std::min<int64_t>(blocks_of(vectors, kThreads), kMostBlocks));
}

int pair_blocks(const Objects& objects, const Rules& rules) {
  return static_cast<int>(blocks_of(static_cast<int64_t>(objects.count) * rules.candidates, kThreads));
}

}  // namespace

int64_t loss_partials(const Head& head, const Objects& objects, const Rules& rules) {
  return static_cast<int64_t>(head.count) * kMostBlocks + static_cast<int64_t>(pair_blocks(objects, rules)) * kSums;
}

void detection_loss(const Head& head, const Objects& objects, const Rules& rules, Scratch scratch, Pairs pairs, float* losses, float* sums,
                    cudaStream_t stream) {
  const int64_t cells = static_cast<int64_t>(head.images) * head.anchors;
  const int places = objects.count * rules.candidates, of_pairs = pair_blocks(objects, rules);
  with_type(head.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    decode<T><<<blocks_of(cells * kSides, kThreads), kThreads, 0, stream>>>(head, scratch.distances, scratch.is_broken);
    if (places > 0) {
      choose<T><<<objects.count, kChooseThreads, 0, stream>>>(head, objects, rules, scratch, pairs);
      settle<T><<<of_pairs, kThreads, 0, stream>>>(head, objects, rules, scratch, pairs);
    }
    weigh<<<1, kOneBlock, 0, stream>>>(places, scratch, pairs, sums);
    int of_scores = 0;
    for (int i = 0; i < head.count; ++i) {
      const Level& level = head.levels[i];
      const int blocks = score_blocks(head, level);
      sum_scores<T>
          <<<blocks, kThreads, 0, stream>>>(level.scores, scores_of(head, level), head.classes, rules, scratch.partials + of_scores);
      of_scores += blocks;
    }
    float* pair_partials = scratch.partials + of_scores;
    if (places > 0) sum_pairs<T><<<of_pairs, kThreads, 0, stream>>>(head, objects, rules, pairs, pair_partials);
    finish<<<1, kOneBlock, 0, stream>>>(scratch.partials, of_scores, pair_partials, of_pairs, rules, scratch.is_broken, sums, losses);
  });
}

void detection_loss_gradient(const Head& head, const Objects& objects, const Rules& rules, Pairs pairs, const float* sums,
                             const float* grad_losses, void* const* grad_boxes, void* const* grad_scores, cudaStream_t stream) {
  with_type(head.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Gradients grads{};
    for (int i = 0; i < head.count; ++i) {
      const Level& level = head.levels[i];
      grads.boxes[i] = grad_boxes[i];
      grads.scores[i] = grad_scores[i];
      const int64_t bins = static_cast<int64_t>(head.images) * level.width * level.height * kSides * kBins;
      cudaMemsetAsync(grad_boxes[i], 0, bins * sizeof(T), stream);
      score_gradient<T><<<score_blocks(head, level), kThreads, 0, stream>>>(level.scores, scores_of(head, level), head.classes, rules, sums,
                                                                            grad_losses, static_cast<T*>(grad_scores[i]));
    }
    if (objects.count > 0)
      pair_gradient<T><<<pair_blocks(objects, rules), kThreads, 0, stream>>>(head, objects, rules, pairs, sums, grad_losses, grads);
  });
}

}  // namespace yolov12_kernels
