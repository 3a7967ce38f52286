// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/augment.h for test_augment_on_host.py, which calls it with addresses of arrays.
#include "augment.h"

#include <algorithm>
#include <vector>

#include "augment_layers.h"

using namespace yolov12_kernels;

extern "C" {

// Renders into (layers, 3, size, size); returns what is wrong with the layers, or nullptr. Pictures are told by address, height and width.
const char* augment_warp(const uint64_t* addresses, const int64_t* heights, const int64_t* widths, int64_t pictures, const int64_t* slots,
                         const int64_t* pad, const int64_t* inside, const int64_t* seam, const float* backward, int64_t layers, int size,
                         bool is_projective, uint8_t* rendered) {
  std::vector<Picture> all;
  for (int64_t i = 0; i < pictures; ++i) all.push_back({addresses[i], heights[i], widths[i]});
  std::vector<Layer> filled(layers);
  for (int64_t i = 0; i < layers; ++i) {
    const Drawn drawn{slots + 4 * i, pad + 8 * i, inside + 16 * i, seam + 2 * i, backward + 9 * i};
    if (const char* const fault = fill_layer(drawn, all.data(), pictures, filled[i])) return fault;
  }
  warp(filled.data(), static_cast<int>(layers), size, is_projective, rendered, nullptr);
  return nullptr;
}

void augment_recolour(const uint8_t* images, const double* gains, int count, int area, uint8_t* levels, uint8_t* coloured) {
  recolour(images, gains, count, area, levels, coloured, nullptr);
}

void augment_divisions(int* by_value, int* by_chroma) {
  constexpr Divisions made = divisions();
  std::copy_n(made.by_value, kLevels, by_value);
  std::copy_n(made.by_chroma, kLevels, by_chroma);
}
}
