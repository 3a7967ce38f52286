// SPDX-License-Identifier: AGPL-3.0-or-later
// A layer as the kernel reads it, from what yolov12/data/augment/warp.py says of it. What the kernel takes for granted is checked here, on the
// CPU and before it starts: it reads nothing outside of a picture.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>

#include "augment_pixels.h"

namespace yolov12_kernels {

struct Picture {
  uint64_t address;  // of its first byte; rows follow each other without a gap
  int64_t height, width;
};

// One layer of warp.Layers: each as its array has it, in C order.
struct Drawn {
  const int64_t* slots;   // (4,)
  const int64_t* pad;     // (4, 2)
  const int64_t* inside;  // (4, 4)
  const int64_t* seam;    // (2,)
  const float* backward;  // (3, 3)
};

inline bool is_empty(const int64_t* inside) { return inside[0] >= inside[2] || inside[1] >= inside[3]; }

// What is wrong with what a picture covers, or nullptr.
inline const char* fault_of(const int64_t* inside, const int64_t* pad, const int64_t* seam, int tile, const Picture& picture) {
  const int64_t left = inside[0], top = inside[1], right = inside[2], bottom = inside[3];
  if (left < 0 || top < 0 || right > kFar || bottom > kFar) return "a picture covers what is outside of any canvas";
  if (left < pad[0] || top < pad[1] || right - pad[0] > picture.width || bottom - pad[1] > picture.height)
    return "a picture covers more than it has pixels";
  if (tile % 2 ? left < seam[0] : right > seam[0]) return "a picture lies across the seam's column";
  if (tile / 2 ? top < seam[1] : bottom > seam[1]) return "a picture lies across the seam's row";
  if (kChannels * (bottom * picture.width + right) > INT_MAX) return "a picture is too large";
  return nullptr;
}

// Fills `layer`; returns what is wrong with what was drawn, or nullptr.
inline const char* fill_layer(const Drawn& drawn, const Picture* pictures, int64_t count, Layer& layer) {
  layer = Layer{};
  std::copy_n(drawn.backward, 9, layer.backward);
  if (std::max(std::abs(drawn.seam[0]), std::abs(drawn.seam[1])) > kFar) return "the seam is outside of any canvas";
  layer.seam_x = static_cast<int>(drawn.seam[0]);
  layer.seam_y = static_cast<int>(drawn.seam[1]);
  for (int tile = 0; tile < kTiles; ++tile) {
    const int64_t slot = drawn.slots[tile], *const inside = drawn.inside + 4 * tile, *const pad = drawn.pad + 2 * tile;
    if (slot < -1 || slot >= count) return "a slot names no picture";
    if (slot == -1 || is_empty(inside)) continue;  // as it is, a place covers nothing
    const Picture& picture = pictures[slot];
    if (const char* const fault = fault_of(inside, pad, drawn.seam, tile, picture)) return fault;
    Place& place = layer.places[tile];
    place.left = static_cast<int>(inside[0]);
    place.top = static_cast<int>(inside[1]);
    place.right = static_cast<int>(inside[2]);
    place.bottom = static_cast<int>(inside[3]);
    place.width = static_cast<int>(picture.width);
    place.origin = picture.address - static_cast<uint64_t>(kChannels * (pad[1] * picture.width + pad[0]));
  }
  return nullptr;
}

}  // namespace yolov12_kernels
