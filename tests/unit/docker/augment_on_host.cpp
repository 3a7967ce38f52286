// SPDX-License-Identifier: AGPL-3.0-or-later
// The two kernels of docker/kernels/augment.cu as loops on the CPU: what each thread does is the same code. For test_augment_on_host.py.
#include <vector>

#include "augment_layers.h"

using namespace yolov12_kernels;

namespace {

constexpr int kRows = 4;  // as augment.cu has it

template <bool kProjective>
void render(const Layer& layer, int size, uint8_t* rendered) {
  for (int column = 0; column < size; ++column)
    for (int first = 0; first < size; first += kRows)
      warp_column<kProjective>(layer, size, column, first, smaller(first + kRows, size), rendered);
}

}  // namespace

extern "C" {

// Renders `layers` layers into (layers, 3, size, size); what is wrong with them, or nullptr. Pictures are told by address, height and width.
const char* augment_warp(const uint64_t* addresses, const int64_t* heights, const int64_t* widths, int64_t pictures, const int64_t* slots,
                         const int64_t* pad, const int64_t* inside, const int64_t* seam, const float* backward, int64_t layers, int size,
                         bool is_projective, uint8_t* rendered) {
  std::vector<Picture> all;
  for (int64_t i = 0; i < pictures; ++i) all.push_back({addresses[i], heights[i], widths[i]});
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer;
    const Drawn drawn{slots + 4 * i, pad + 8 * i, inside + 16 * i, seam + 2 * i, backward + 9 * i};
    if (const char* const fault = fill_layer(drawn, all.data(), pictures, layer)) return fault;
    uint8_t* const to = rendered + i * kChannels * size * size;
    is_projective ? render<true>(layer, size, to) : render<false>(layer, size, to);
  }
  return nullptr;
}

void augment_recolour(const uint8_t* images, const uint8_t* levels, int64_t count, int area, bool is_aligned, uint8_t* coloured) {
  static constexpr Divisions kDivisions = divisions();
  for (int64_t i = 0; i < count; ++i)
    for (int first = 0; first < area; first += kColourPixels)
      recolour_pixels({&kDivisions, levels + i * kChannels * kLevels}, images + i * kChannels * area, area, first, is_aligned,
                      coloured + i * kChannels * area);
}

void augment_divisions(int* by_value, int* by_chroma) {
  static constexpr Divisions kDivisions = divisions();
  std::copy_n(kDivisions.by_value, kLevels, by_value);
  std::copy_n(kDivisions.by_chroma, kLevels, by_chroma);
}
}
