// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops of `augment.h`. Everything that the kernels take for granted is checked here.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "augment.h"
#include "augment_layers.h"

namespace yolov12_kernels {
namespace {

std::vector<Picture> pictures_of(at::TensorList pictures) {
  TORCH_CHECK(!pictures.empty(), "yolov12_kernels: no picture");
  std::vector<Picture> made;
  made.reserve(pictures.size());
  for (const at::Tensor& picture : pictures) {
    TORCH_CHECK(picture.scalar_type() == at::kByte && picture.dim() == 3 && picture.size(2) == kChannels && picture.is_contiguous() &&
                    picture.is_cuda() && picture.device() == pictures[0].device(),
                "yolov12_kernels: a picture must be (height, width, 3) uint8, contiguous, on the first one's GPU, and is ", picture.sizes(),
                " ", picture.scalar_type(), " of strides ", picture.strides(), " on ", picture.device());
    made.push_back({reinterpret_cast<uint64_t>(picture.const_data_ptr()), picture.size(0), picture.size(1)});
  }
  return made;
}

// The numbers of an array of the CPU, which is asked for its shape.
template <typename T>
const T* numbers_of(const at::Tensor& t, at::ScalarType type, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(t.device().is_cpu() && t.scalar_type() == type && t.sizes() == shape && t.is_contiguous(), "yolov12_kernels: ", name,
              " must be ", shape, " ", type, ", contiguous, on the CPU, and is ", t.sizes(), " ", t.scalar_type(), " on ", t.device());
  return t.const_data_ptr<T>();
}

// Layers, from their numbers on the CPU: these go to the GPU in one copy from pinned memory, and the host goes on.
at::Tensor warp_op(at::TensorList pictures, const at::Tensor& slots, const at::Tensor& pad, const at::Tensor& inside, const at::Tensor& seam,
                   const at::Tensor& backward, int64_t size, bool is_projective) {
  const std::vector<Picture> all = pictures_of(pictures);
  const c10::cuda::CUDAGuard guard(pictures[0].device());
  const int64_t count = slots.dim() == 2 ? slots.size(0) : 0;
  TORCH_CHECK(count >= 1 && count <= kMostImages, "yolov12_kernels: slots must be (layers, 4) with 1 to ", kMostImages, " layers, and are ",
              slots.sizes());
  TORCH_CHECK(size >= 1 && size <= kLargestSide, "yolov12_kernels: a size of ", size, " pixels, of 1 to ", kLargestSide);
  const int64_t* const slot = numbers_of<int64_t>(slots, at::kLong, {count, kTiles}, "slots");
  const int64_t* const padded = numbers_of<int64_t>(pad, at::kLong, {count, kTiles, 2}, "pad");
  const int64_t* const covered = numbers_of<int64_t>(inside, at::kLong, {count, kTiles, 4}, "inside");
  const int64_t* const seams = numbers_of<int64_t>(seam, at::kLong, {count, 2}, "seam");
  const float* const matrices = numbers_of<float>(backward, at::kFloat, {count, 3, 3}, "backward");

  const int64_t bytes = count * static_cast<int64_t>(sizeof(Layer));
  const at::Tensor here = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  Layer* const layers = static_cast<Layer*>(here.mutable_data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    const Drawn drawn{slot + kTiles * i, padded + 2 * kTiles * i, covered + 4 * kTiles * i, seams + 2 * i, matrices + 9 * i};
    const char* const fault = fill_layer(drawn, all.data(), static_cast<int64_t>(all.size()), layers[i]);
    TORCH_CHECK(fault == nullptr, "yolov12_kernels: layer ", i, ": ", fault);
  }
  const at::Tensor there = here.to(pictures[0].device(), /*non_blocking=*/true);
  at::Tensor rendered = at::empty({count, kChannels, size, size}, pictures[0].options().memory_format(std::nullopt));
  warp(static_cast<const Layer*>(there.const_data_ptr()), static_cast<int>(count), static_cast<int>(size), is_projective,
       rendered.mutable_data_ptr<uint8_t>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return rendered;
}

// The gains go to the GPU as the layers do, and the tables are made there: the host would need a millisecond for those of 256 images.
at::Tensor recolour_op(const at::Tensor& images, const at::Tensor& gains) {
  TORCH_CHECK(images.scalar_type() == at::kByte && images.dim() == 4 && images.size(1) == kChannels && images.is_contiguous() &&
                  images.is_cuda() && images.size(0) <= kMostImages && images.size(2) <= kLargestSide && images.size(3) <= kLargestSide,
              "yolov12_kernels: images must be (up to ", kMostImages, ", 3, height, width) uint8, contiguous, on a GPU, with sides up to ",
              kLargestSide, ", and are ", images.sizes(), " ", images.scalar_type(), " of strides ", images.strides(), " on ",
              images.device());
  const double* const from = numbers_of<double>(gains, at::kDouble, {images.size(0), kChannels}, "gains");
  const c10::cuda::CUDAGuard guard(images.device());
  at::Tensor coloured = at::empty_like(images);
  if (images.numel() == 0) return coloured;
  const at::Tensor here = at::empty(gains.sizes(), gains.options().pinned_memory(true));
  std::copy_n(from, gains.numel(), here.mutable_data_ptr<double>());
  const at::Tensor there = here.to(images.device(), /*non_blocking=*/true);
  const at::Tensor levels = at::empty({images.size(0), kChannels, kLevels}, images.options().memory_format(std::nullopt));
  recolour(images.const_data_ptr<uint8_t>(), there.const_data_ptr<double>(), static_cast<int>(images.size(0)),
           static_cast<int>(images.size(2) * images.size(3)), levels.mutable_data_ptr<uint8_t>(), coloured.mutable_data_ptr<uint8_t>(),
           c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return coloured;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def(
      "augment_warp(Tensor[] pictures, Tensor slots, Tensor pad, Tensor inside, Tensor seam, Tensor backward, int size, "
      "bool is_projective) -> Tensor");
  library.def("augment_recolour(Tensor images, Tensor gains) -> Tensor");
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("augment_warp", &warp_op);
  library.impl("augment_recolour", &recolour_op);
}

}  // namespace yolov12_kernels
