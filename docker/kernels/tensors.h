// SPDX-License-Identifier: AGPL-3.0-or-later
// What the ops share in looking at tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "batch_norm_act.h"

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

}  // namespace yolov12_kernels
