// SPDX-License-Identifier: AGPL-3.0-or-later
// The two steps of the augmentation that touch every pixel (yolov12/data/augment):
//     warp       mosaic, affine or perspective, and flips in one look-up: reads pictures where they lie, writes the layers
//     recolour   hue, saturation and brightness: reads the samples, writes them in the other order of channels
// Nothing lies between that is stored. Grey levels are those of torch's operations on the CPU, to the bit.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "augment_pixels.h"

namespace yolov12_kernels {

// Of output pixels, so that a layer's bytes are counted as int.
constexpr int kLargestSide = 1 << 14;
// Layers or images of one call: blocks in a grid's last dimensions, of any GPU.
constexpr int kMostImages = 65535;

// `rendered` is (count, 3, size, size).
void warp(const Layer* layers, int count, int size, bool is_projective, uint8_t* rendered, cudaStream_t stream);

// `images` and `coloured` are (count, 3, area), `gains` (count, 3) of hue, saturation and value; `levels` is scratch memory, (count, 3, 256).
void recolour(const uint8_t* images, const double* gains, int count, int area, uint8_t* levels, uint8_t* coloured, cudaStream_t stream);

}  // namespace yolov12_kernels
