// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `letterbox.h`. Everything that the kernel takes for granted is checked here.
#include "letterbox.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <climits>

#include "tensors.h"

namespace yolov12_kernels {
namespace {

constexpr int64_t kMostImages = 65535;    // blocks in a grid's last dimension, of any GPU
constexpr int64_t kLargestSide = 1 << 16;  // of output pixels: blocks of a grid in any direction

bool is_dense(const at::Tensor& t) { return t.is_contiguous() || t.is_contiguous(at::MemoryFormat::ChannelsLast); }

// `height` and `width` are those that each frame is resized to, and `top` and `left` where it lies in `out`, which is (frames, 3, height, width).
void letterbox_op(const at::Tensor& frames, const at::Tensor& levels, int64_t height, int64_t width, int64_t top, int64_t left,
                  const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(frames.device());
  TORCH_CHECK(frames.scalar_type() == at::kByte && frames.dim() == 4 && frames.size(3) == kColours && frames.is_contiguous() &&
                  frames.numel() > 0 && frames.size(0) <= kMostImages && frames.numel() / frames.size(0) <= INT_MAX,
              "yolov12_kernels: frames must be (up to ", kMostImages, ", height, width, 3) uint8, contiguous, of less than 2 GiB each, and are ",
              frames.sizes(), " ", frames.scalar_type(), " of strides ", frames.strides());
  TORCH_CHECK(is_supported(out.scalar_type()) && out.dim() == 4 && out.size(0) == frames.size(0) && out.size(1) == kColours && is_dense(out) &&
                  out.device() == frames.device() && out.size(2) <= kLargestSide && out.size(3) <= kLargestSide &&
                  kColours * out.size(2) * out.size(3) <= INT_MAX,
              "yolov12_kernels: out must be (", frames.size(0), ", 3, height, width), float32, float16 or bfloat16, contiguous or channels_last, on ",
              frames.device(), ", with sides up to ", kLargestSide, ", and is ", out.sizes(), " ", out.scalar_type(), " of strides ", out.strides(),
              " on ", out.device());
  TORCH_CHECK(height > 0 && width > 0 && top >= 0 && left >= 0 && top <= out.size(2) - height && left <= out.size(3) - width,
              "yolov12_kernels: ", height, " x ", width, " pixels at row ", top, " and column ", left, " do not lie within ", out.size(2), " x ",
              out.size(3));
  TORCH_CHECK(levels.sizes() == at::IntArrayRef({kGreys}) && levels.is_contiguous() && levels.scalar_type() == out.scalar_type() &&
                  levels.device() == frames.device(),
              "yolov12_kernels: levels must be ", kGreys, " contiguous numbers of out's type, and are ", levels.sizes(), " ", levels.scalar_type());
  const bool has_planes = out.is_contiguous();
  const int rows = static_cast<int>(out.size(2)), columns = static_cast<int>(out.size(3));
  const Letterbox of{static_cast<int>(frames.size(0)),
                     static_cast<int>(frames.size(1)),
                     static_cast<int>(frames.size(2)),
                     static_cast<int>(height),
                     static_cast<int>(width),
                     static_cast<int>(top),
                     static_cast<int>(left),
                     rows,
                     columns,
                     type_of(out),
                     static_cast<int64_t>(kColours) * rows * columns,
                     has_planes ? rows * columns : 1,
                     has_planes ? columns : kColours * columns,
                     has_planes ? 1 : kColours};
  letterbox(of, frames.const_data_ptr<uint8_t>(), levels.const_data_ptr(), out.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("letterbox(Tensor frames, Tensor levels, int height, int width, int top, int left, Tensor(a!) out) -> ()");
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("letterbox", &letterbox_op); }

}  // namespace yolov12_kernels
