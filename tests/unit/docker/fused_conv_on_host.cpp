// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/fused_conv.h and fused_depthwise.h for test_fused_conv_on_host.py, which calls it with addresses of tensors.
#include "fused_conv.h"
#include "fused_depthwise.h"

using namespace yolov12_kernels;

namespace {

// images, height, width, in_channels, out_channels, side, stride, type, has SiLU
FusedConv shape_of(const int* numbers) {
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], static_cast<Type>(numbers[7]),
          numbers[8] ? Activation::kSiLU : Activation::kNone};
}

Pixels pixels_at(void* data, const int64_t* strides) { return {data, strides[0], strides[1]}; }

}  // namespace

extern "C" {

int tiles() { return kTileCount; }

void tile_size(int tile, int* size) {
  size[0] = kTiles[tile].pixels;
  size[1] = kTiles[tile].channels;
}

int chosen_tile(const int* shape, int multiprocessors) { return tile_for(shape_of(shape), multiprocessors); }

// Strides are those of images and of pixels.
void fused_conv_forward(const int* shape, int tile, void* x, const int64_t* x_strides, const void* weight, const void* bias, void* residual,
                        const int64_t* residual_strides, void* y, const int64_t* y_strides) {
  fused_conv(shape_of(shape), tile, pixels_at(x, x_strides), weight, bias, pixels_at(residual, residual_strides), pixels_at(y, y_strides), false,
             nullptr);
}

// images, height, width, channels, side, type, has SiLU; strides as above
void fused_depthwise_forward(const int* numbers, int multiprocessors, void* x, const int64_t* x_strides, const void* taps, const void* bias,
                             void* residual, const int64_t* residual_strides, void* y, const int64_t* y_strides) {
  const FusedDepthwise shape{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], static_cast<Type>(numbers[5]),
                             numbers[6] ? Activation::kSiLU : Activation::kNone};
  fused_depthwise(shape, pixels_at(x, x_strides), taps, bias, pixels_at(residual, residual_strides), pixels_at(y, y_strides), false,
                  multiprocessors, nullptr);
}
}
