// SPDX-License-Identifier: AGPL-3.0-or-later
#include "survive.h"

#include "overlap.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kPart = 256;  // candidates at a time, a thread for each
constexpr int kBits = 32;   // of a word: candidates in it
constexpr int kWords = kPart / kBits;

__global__ void __launch_bounds__(kPart) survive_kernel(const Ranked ranked, const float iou, const int limit, int64_t* kept, int* counts) {
  __shared__ Corners standing[kMostStanding];
  __shared__ float standing_areas[kMostStanding];
  __shared__ Corners boxes[kPart];
  __shared__ float areas[kPart];
  __shared__ bool is_open[kPart];              // nothing that stood before this part falls on it
  __shared__ unsigned falls[kWords][kPart];    // bit b of falls[w][i]: candidate 32 w + b, which is worse than i, falls on it
  __shared__ unsigned stands[kWords];
  const int mine = threadIdx.x, image = blockIdx.x;
  const int length = ranked.lengths[image] < ranked.most ? ranked.lengths[image] : ranked.most;
  int64_t* const found = kept + static_cast<int64_t>(image) * limit;
  int count = 0;  // that stand; the same in all threads

  for (int begin = 0; begin < length && count < limit; begin += kPart) {
    bool open = begin + mine < length;
    int64_t place = -1;
    Corners box{};
    float area = 0.0f;
    if (open) {
      place = ranked.order[static_cast<int64_t>(image) * ranked.most + begin + mine];
      const float* const from = ranked.boxes + 4 * place;
      box = {from[0], from[1], from[2], from[3]};
      area = area_of(box);
      for (int i = 0; i < count && open; ++i) open = !overlap(standing[i], standing_areas[i], box, area, iou);
    }
    boxes[mine] = box;
    areas[mine] = area;
    is_open[mine] = open;
    __syncthreads();

    if (mine < kWords) {
      unsigned bits = 0;
      for (int bit = 0; bit < kBits; ++bit) bits |= static_cast<unsigned>(is_open[mine * kBits + bit]) << bit;
      stands[mine] = bits;
    }
    for (int word = mine / kBits; open && word < kWords; ++word) {
      unsigned bits = 0;
      for (int bit = 0; bit < kBits; ++bit) {
        const int other = word * kBits + bit;
        if (other > mine && is_open[other] && overlap(box, area, boxes[other], areas[other], iou)) bits |= 1u << bit;
      }
      falls[word][mine] = bits;
    }
    __syncthreads();

    // Word by word: what is left of a word settles by itself, one after the other; then all words behind it lose what falls on its boxes.
    for (int word = 0; word < kWords; ++word) {
      if (mine == 0) {
        unsigned left = stands[word];
        for (int bit = 0; bit < kBits; ++bit) {
          if (left >> bit & 1u) left &= ~falls[word][word * kBits + bit];
        }
        stands[word] = left;
      }
      __syncthreads();
      if (mine > word && mine < kWords) {
        const unsigned left = stands[word];
        unsigned fallen = 0;
        for (int bit = 0; bit < kBits; ++bit) {
          if (left >> bit & 1u) fallen |= falls[mine][word * kBits + bit];
        }
        stands[mine] &= ~fallen;
      }
      __syncthreads();
    }

    int before = count, total = 0;  // standing ones before mine, and of this part
    for (int word = 0; word < kWords; ++word) {
      const unsigned bits = stands[word];
      total += __popc(bits);
      if (word < mine / kBits) before += __popc(bits);
      if (word == mine / kBits) before += __popc(bits & ((1u << mine % kBits) - 1));
    }
    if (stands[mine / kBits] >> mine % kBits & 1u && before < limit) {
      standing[before] = box;
      standing_areas[before] = area;
      found[before] = place;
    }
    count = count + total < limit ? count + total : limit;
    __syncthreads();
  }
  for (int i = count + mine; i < limit; i += kPart) found[i] = -1;
  if (mine == 0) counts[image] = count;
}

}  // namespace

void survive(const Ranked& ranked, float iou, int limit, int64_t* kept, int* counts, cudaStream_t stream) {
  survive_kernel<<<ranked.images, kPart, 0, stream>>>(ranked, iou, limit, kept, counts);
}

}  // namespace yolov12_kernels
