// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops of `join.h`. Everything that the kernels take for granted is checked here.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <vector>

#include "join.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

// Whether `source` can be a term of a result that looks like `pixels`, (images, any, height, width), with `channels` channels.
bool is_term(const at::Tensor& source, bool doubled, int64_t images, int64_t height, int64_t width, int64_t channels, const at::Tensor& like) {
  const int64_t times = doubled ? 2 : 1;
  return is_rows(source) && source.scalar_type() == like.scalar_type() && source.device() == like.device() && source.size(0) == images &&
         source.size(1) == channels && source.size(2) * times == height && source.size(3) * times == width;
}

// `terms` says of each range of channels how many of the sources, which follow each other, are summed in it; `doubled` says of each source
// whether its pixels are read for four, which goes with sums of one source alone.
bool is_join(const at::TensorList sources, at::IntArrayRef terms, const std::vector<bool>& doubled) {
  const size_t count = sources.size();
  if (count == 0 || count > kMostSources || doubled.size() != count || terms.empty() || terms.size() > kMostRanges) return false;
  const at::Tensor& like = sources[0];
  if (!is_rows(like)) return false;
  const int64_t times = doubled[0] ? 2 : 1;
  const int64_t images = like.size(0), height = like.size(2) * times, width = like.size(3) * times;
  size_t first = 0;
  for (const int64_t of_range : terms) {
    if (of_range < 1 || of_range > kMostTerms || first + of_range > count) return false;
    for (size_t i = first; i < first + of_range; ++i)
      if (!is_term(sources[i], doubled[i], images, height, width, sources[first].size(1), like)) return false;
    first += of_range;
  }
  const bool doubles = std::find(doubled.begin(), doubled.end(), true) != doubled.end();
  return first == count && !(doubles && terms.size() != count) && images * height * width <= INT_MAX;
}

// The elements of the dispatcher's list are proxies.
std::vector<bool> flags(const c10::List<bool>& list) { return std::vector<bool>(list.begin(), list.end()); }

bool is_join_op(const at::TensorList sources, at::IntArrayRef terms, const c10::List<bool>& doubled) {
  return is_join(sources, terms, flags(doubled));
}

at::Tensor join_op(const at::TensorList sources, at::IntArrayRef terms, const c10::List<bool>& doubled_list) {
  const std::vector<bool> doubled = flags(doubled_list);
  TORCH_CHECK(is_join(sources, terms, doubled), "yolov12_kernels: ", sources.size(), " sources can not be joined, the first ",
              sources.empty() ? at::IntArrayRef() : sources[0].sizes(), ": all must be channels_last with channels a multiple of 16 bytes, of one "
              "type and size, those of a range with as many channels; ", kMostRanges, " ranges of ", kMostTerms, " sources, ", kMostSources,
              " in all, are the most, and with a doubled one each range has one source");
  const c10::cuda::CUDAGuard guard(sources[0].device());
  Join plan{};
  plan.type = type_of(sources[0]);
  plan.sources_count = static_cast<int>(sources.size());
  plan.ranges_count = static_cast<int>(terms.size());
  const int times = doubled[0] ? 2 : 1;
  plan.images = static_cast<int>(sources[0].size(0));
  plan.height = static_cast<int>(sources[0].size(2)) * times;
  plan.width = static_cast<int>(sources[0].size(3)) * times;
  for (int i = 0; i < plan.sources_count; ++i) plan.sources[i] = {rows_of(sources[i], "a source"), doubled[i]};
  const int vector = elements_per_load(plan.type);
  int first = 0, channels = 0;
  for (int i = 0; i < plan.ranges_count; ++i) {
    const int wide = static_cast<int>(sources[first].size(1));
    plan.ranges[i] = {channels / vector, (channels + wide) / vector, first, static_cast<int>(terms[i])};
    first += static_cast<int>(terms[i]);
    channels += wide;
  }
  at::Tensor out = at::empty({plan.images, channels, plan.height, plan.width}, sources[0].options().memory_format(at::MemoryFormat::ChannelsLast));
  join(plan, out.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

bool is_halvable(const at::Tensor& x) {
  return is_rows(x) && x.size(2) % 2 == 0 && x.size(3) % 2 == 0 && x.size(0) * x.size(2) * x.size(3) <= INT_MAX;
}

at::Tensor halve_op(const at::Tensor& x) {
  TORCH_CHECK(is_halvable(x), "yolov12_kernels: x of shape ", x.sizes(), " and strides ", x.strides(),
              " must be channels_last with channels a multiple of 16 bytes, and of even height and width");
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty({x.size(0), x.size(1), x.size(2) / 2, x.size(3) / 2}, x.options().memory_format(at::MemoryFormat::ChannelsLast));
  halve(rows_of(x, "x"), out.mutable_data_ptr(), static_cast<int>(out.size(0)), static_cast<int>(out.size(2)), static_cast<int>(out.size(3)),
        static_cast<int>(out.size(1)), type_of(x), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("join(Tensor[] sources, int[] terms, bool[] doubled) -> Tensor");
  library.def("halve(Tensor x) -> Tensor");
  library.def("is_join(Tensor[] sources, int[] terms, bool[] doubled) -> bool", &is_join_op);
  library.def("is_halvable(Tensor x) -> bool", &is_halvable);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("join", &join_op);
  library.impl("halve", &halve_op);
}

}  // namespace yolov12_kernels
