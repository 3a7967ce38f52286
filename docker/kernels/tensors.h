// SPDX-License-Identifier: AGPL-3.0-or-later
// What the ops share in looking at tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <optional>

#include "batch_norm_act.h"
#include "device.h"
#include "loads.h"

namespace yolov12_kernels {

inline bool is_supported(at::ScalarType type) { return type == at::kFloat || type == at::kHalf || type == at::kBFloat16; }

inline Type type_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat: return Type::kFloat;
    case at::kHalf: return Type::kHalf;
    case at::kBFloat16: return Type::kBFloat16;
    default: TORCH_CHECK(false, "yolov12_kernels: ", t.scalar_type(), " is not float32, float16 or bfloat16");
  }
}

// Elements from one pixel's channels to the next one's. A dimension of size 1 has any stride, so it is not asked.
inline int64_t row_stride(const at::Tensor& t) {
  for (const int dimension : {3, 2, 0}) {
    if (t.size(dimension) > 1) return t.stride(dimension);
  }
  return t.size(1);
}

// Whether `t`, (images, channels, height, width), can be walked as rows of channels at one distance from each other.
inline bool is_rows(const at::Tensor& t) {
  if (t.dim() != 4 || t.numel() == 0 || !is_supported(t.scalar_type())) return false;
  const int vector = elements_per_load(type_of(t));
  const int64_t images = t.size(0), channels = t.size(1), height = t.size(2), width = t.size(3);
  if (channels % vector != 0 || t.stride(1) != 1) return false;
  if (reinterpret_cast<uintptr_t>(t.const_data_ptr()) % kLoadBytes != 0) return false;
  const int64_t row = row_stride(t);
  if (row < channels || row % vector != 0) return false;
  if (height > 1 && t.stride(2) != row * width) return false;
  return images <= 1 || t.stride(0) == row * width * height;
}

inline Rows rows_of(const at::Tensor& t, const char* name) {
  TORCH_CHECK(is_rows(t), "yolov12_kernels: ", name, " of shape ", t.sizes(), " and strides ", t.strides(),
              " is not channels_last with channels a multiple of 16 bytes");
  return {const_cast<void*>(t.const_data_ptr()), row_stride(t)};
}

inline at::Tensor floats(int64_t n, const at::Tensor& like) {
  return at::empty({n}, like.options().dtype(at::kFloat).memory_format(std::nullopt));
}

}  // namespace yolov12_kernels
