// SPDX-License-Identifier: AGPL-3.0-or-later
// What the ops of inference share in looking at tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAFunctions.h>

#include "device.h"
#include "loads.h"
#include "pixels.h"

namespace yolov12_kernels {

constexpr int kFirstThatCopiesBeside = 8, kFirstThatBeginsEarly = 9;  // major numbers of compute capabilities

// Whether the kernels that copy beside their arithmetic (pipeline.cuh) run on the current device.
inline bool copies_beside() { return capability(c10::cuda::current_device()) >= kFirstThatCopiesBeside; }

// Whether a kernel may come onto the current device while the one before it runs (`launch` in pipeline.cuh).
inline bool begins_early() { return capability(c10::cuda::current_device()) >= kFirstThatBeginsEarly; }

inline bool is_at_load(const at::Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % kLoadBytes == 0; }

// From one pixel of an image to the next. A dimension of size 1 has any stride, so it is not asked.
inline int64_t pixel_stride(const at::Tensor& t) {
  if (t.size(3) > 1) return t.stride(3);
  return t.size(2) > 1 ? t.stride(2) : t.size(1);
}

inline int64_t image_stride(const at::Tensor& t) { return t.size(0) > 1 ? t.stride(0) : t.size(2) * t.size(3) * pixel_stride(t); }

// Whether `t`, (images, channels, height, width), is images whose pixels follow each other in 16-byte loads: a channels_last tensor, some channels of
// a wider one, or images with something between them.
inline bool is_pixels(const at::Tensor& t) {
  if (t.dim() != 4 || t.numel() == 0 || (t.scalar_type() != at::kHalf && t.scalar_type() != at::kBFloat16)) return false;
  const int64_t pixel = pixel_stride(t), image = image_stride(t);
  if (t.stride(1) != 1 || t.size(1) % kNumbersOfLoad != 0 || pixel % kNumbersOfLoad != 0 || image % kNumbersOfLoad != 0) return false;
  if (pixel < t.size(1) || (t.size(2) > 1 && t.stride(2) != pixel * t.size(3))) return false;
  return image >= (t.size(2) * t.size(3) - 1) * pixel + t.size(1) && is_at_load(t);
}

inline Pixels pixels_of(const at::Tensor& t) { return {const_cast<void*>(t.const_data_ptr()), image_stride(t), pixel_stride(t)}; }

inline void check_pixels(const at::Tensor& t, at::IntArrayRef sizes, const at::Tensor& x, const char* name) {
  TORCH_CHECK(t.sizes() == sizes && t.scalar_type() == x.scalar_type() && t.device() == x.device() && is_pixels(t), "yolov12_kernels: ", name,
              " must be channels_last, of shape ", sizes, ", ", x.scalar_type(), " on ", x.device(), ", and is of shape ", t.sizes(),
              " and strides ", t.strides(), ", ", t.scalar_type(), " on ", t.device());
}

inline void check_bias(const at::Tensor& bias, int64_t channels, const at::Tensor& x) {
  TORCH_CHECK(bias.dim() == 1 && bias.size(0) == channels && bias.is_contiguous() && bias.scalar_type() == x.scalar_type() &&
                  bias.device() == x.device() && is_at_load(bias),
              "yolov12_kernels: the bias must be a contiguous number of x's type for each channel");
}

}  // namespace yolov12_kernels
