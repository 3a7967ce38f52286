// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops of `detection_loss.h`. Everything that the kernels take for granted is checked here.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <climits>
#include <optional>
#include <tuple>
#include <vector>

#include "detection_loss.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

// (images, channels, height, width), dense, with the channels side by side or the pixels.
Plane plane_of(const at::Tensor& t, int64_t channels, const at::Tensor& like, const char* name) {
  TORCH_CHECK(t.dim() == 4 && t.size(1) == channels, "yolov12_kernels: ", name, " must be (images, ", channels,
              ", height, width), and is ", t.sizes());
  TORCH_CHECK(t.scalar_type() == like.scalar_type() && t.device() == like.device() && t.size(0) == like.size(0), "yolov12_kernels: ", name,
              " must have the type, device and number of images of the first output, and is ", t.scalar_type(), " of ", t.sizes());
  const bool by_pixel = t.is_contiguous(at::MemoryFormat::ChannelsLast);
  TORCH_CHECK(by_pixel || t.is_contiguous(), "yolov12_kernels: ", name, " of strides ", t.strides(), " is not dense");
  TORCH_CHECK(reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0, "yolov12_kernels: ", name, " is not aligned to 16 bytes");
  const int64_t pixels = t.size(2) * t.size(3);
  // Where height and width are 1 both layouts hold, and are the same.
  return by_pixel ? Plane{t.const_data_ptr(), channels * pixels, 1, channels} : Plane{t.const_data_ptr(), channels * pixels, pixels, 1};
}

Head head_of(at::TensorList boxes, at::TensorList scores, at::ArrayRef<double> strides) {
  TORCH_CHECK(!boxes.empty() && boxes.size() <= kMostLevels && scores.size() == boxes.size() && strides.size() == boxes.size(),
              "yolov12_kernels: one output for boxes, one for scores and one stride for each of 1 to ", kMostLevels, " levels");
  const at::Tensor& like = boxes[0];
  Head head{};
  head.count = static_cast<int>(boxes.size());
  head.images = static_cast<int>(like.size(0));
  head.classes = static_cast<int>(scores[0].size(1));
  head.type = type_of(like);
  TORCH_CHECK(head.classes > 0, "yolov12_kernels: no class");
  for (int i = 0; i < head.count; ++i) {
    Level& level = head.levels[i];
    level.boxes = plane_of(boxes[i], kSides * kBins, like, "an output for boxes");
    level.scores = plane_of(scores[i], head.classes, like, "an output for scores");
    TORCH_CHECK(boxes[i].sizes().slice(2) == scores[i].sizes().slice(2), "yolov12_kernels: boxes of ", boxes[i].sizes(), " and scores of ",
                scores[i].sizes());
    level.height = static_cast<int>(boxes[i].size(2));
    level.width = static_cast<int>(boxes[i].size(3));
    level.stride = static_cast<float>(strides[i]);
    level.first = head.anchors;
    head.anchors += level.width * level.height;
  }
  TORCH_CHECK(static_cast<int64_t>(head.images) * head.anchors * kSides <= INT_MAX, "yolov12_kernels: ", head.images, " images of ",
              head.anchors, " anchors are too many");
  return head;
}

constexpr int64_t kColumns = 6;

Objects objects_of(const at::Tensor& rows, const at::Tensor& like) {
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) == kColumns && rows.scalar_type() == at::kFloat && rows.is_contiguous() &&
                  rows.device() == like.device(),
              "yolov12_kernels: objects must be rows of ", kColumns, " float32 values on ", like.device(), ", and are ", rows.sizes(), " ",
              rows.scalar_type());
  return {rows.const_data_ptr<float>(), static_cast<int>(rows.size(0))};
}

Rules rules_of(int64_t candidates, double alpha, double beta, double least_side, at::ArrayRef<double> gains,
               const std::optional<at::Tensor>& class_weights, const Head& head, const Objects& objects) {
  TORCH_CHECK(candidates >= 1 && candidates <= kMostCandidates, "yolov12_kernels: ", candidates, " candidates, of 1 to ", kMostCandidates);
  TORCH_CHECK(gains.size() == 3, "yolov12_kernels: gains for box, class and distribution");
  TORCH_CHECK(objects.count * candidates <= INT_MAX, "yolov12_kernels: ", objects.count, " objects are too many");
  Rules rules{static_cast<int>(candidates), static_cast<float>(alpha), static_cast<float>(beta), static_cast<float>(least_side),
              {static_cast<float>(gains[0]), static_cast<float>(gains[1]), static_cast<float>(gains[2])}, nullptr};
  if (class_weights) {
    TORCH_CHECK(class_weights->scalar_type() == at::kFloat && class_weights->is_contiguous() && class_weights->numel() == head.classes &&
                    class_weights->is_cuda(),
                "yolov12_kernels: ", head.classes, " class weights, float32, on the device");
    rules.classes = class_weights->const_data_ptr<float>();
  }
  return rules;
}

Pairs pairs_of(const at::Tensor& places, const at::Tensor& weights) {
  int* const first = places.mutable_data_ptr<int>();
  return {first, first + weights.numel(), weights.mutable_data_ptr<float>()};
}

// (losses of box, class and distribution; the divisor and the sum of target scores; and for backward: places and weights of the pairs)
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> loss_op(at::TensorList boxes, at::TensorList scores, const at::Tensor& rows,
                                                                   at::ArrayRef<double> strides, int64_t candidates, double alpha,
                                                                   double beta, double least_side, at::ArrayRef<double> gains,
                                                                   const std::optional<at::Tensor>& class_weights) {
  const Head head = head_of(boxes, scores, strides);
  const c10::cuda::CUDAGuard guard(boxes[0].device());
  const Objects objects = objects_of(rows, boxes[0]);
  const Rules rules = rules_of(candidates, alpha, beta, least_side, gains, class_weights, head, objects);
  const at::TensorOptions ints = rows.options().dtype(at::kInt), floats = rows.options();
  const int64_t cells = static_cast<int64_t>(head.images) * head.anchors, places = objects.count * candidates;
  const at::Tensor distances = at::empty({cells * kSides}, floats), first = at::full({cells}, INT_MAX, ints), last = at::full({cells}, -1, ints);
  const at::Tensor newest = at::full({head.images}, -1, ints), next = at::empty({objects.count}, ints);
  const at::Tensor best = at::zeros({2 * static_cast<int64_t>(objects.count)}, floats), is_broken = at::zeros({1}, ints);
  const at::Tensor partials = at::empty({loss_partials(head, objects, rules)}, floats);
  const Scratch scratch{distances.mutable_data_ptr<float>(), first.mutable_data_ptr<int>(),
                        last.mutable_data_ptr<int>(),        newest.mutable_data_ptr<int>(),
                        next.mutable_data_ptr<int>(),        best.mutable_data_ptr<float>(),
                        best.mutable_data_ptr<float>() + objects.count, partials.mutable_data_ptr<float>(),
                        is_broken.mutable_data_ptr<int>()};
  at::Tensor losses = at::empty({3}, floats), sums = at::empty({2}, floats);
  at::Tensor of_pairs = at::empty({2, places}, ints), weights = at::empty({places}, floats);
  detection_loss(head, objects, rules, scratch, pairs_of(of_pairs, weights), losses.mutable_data_ptr<float>(),
                 sums.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {losses, sums, of_pairs, weights};
}

// Gradients of all outputs, boxes first, laid out as these are.
std::vector<at::Tensor> gradient_op(const at::Tensor& grad_losses, at::TensorList boxes, at::TensorList scores, const at::Tensor& rows,
                                    at::ArrayRef<double> strides, int64_t candidates, double alpha, double beta, double least_side,
                                    at::ArrayRef<double> gains, const std::optional<at::Tensor>& class_weights, const at::Tensor& sums,
                                    const at::Tensor& of_pairs, const at::Tensor& weights) {
  const Head head = head_of(boxes, scores, strides);
  const c10::cuda::CUDAGuard guard(boxes[0].device());
  const Objects objects = objects_of(rows, boxes[0]);
  const Rules rules = rules_of(candidates, alpha, beta, least_side, gains, class_weights, head, objects);
  TORCH_CHECK(grad_losses.scalar_type() == at::kFloat && grad_losses.is_contiguous() && grad_losses.numel() == 3 && grad_losses.is_cuda(),
              "yolov12_kernels: the gradient of the losses must be 3 float32 values on the device, and is ", grad_losses.sizes(), " ",
              grad_losses.scalar_type());
  std::vector<at::Tensor> grads;
  std::vector<void*> of_boxes, of_scores;
  for (const at::Tensor& output : boxes) of_boxes.push_back(grads.emplace_back(at::empty_like(output)).mutable_data_ptr());
  for (const at::Tensor& output : scores) of_scores.push_back(grads.emplace_back(at::empty_like(output)).mutable_data_ptr());
  detection_loss_gradient(head, objects, rules, pairs_of(of_pairs, weights), sums.const_data_ptr<float>(),
                          grad_losses.const_data_ptr<float>(), of_boxes.data(), of_scores.data(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return grads;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def(
      "detection_loss(Tensor[] boxes, Tensor[] scores, Tensor objects, float[] strides, int candidates, float alpha, float beta, "
      "float least_side, float[] gains, Tensor? class_weights) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "detection_loss_gradient(Tensor grad_losses, Tensor[] boxes, Tensor[] scores, Tensor objects, float[] strides, int candidates, "
      "float alpha, float beta, float least_side, float[] gains, Tensor? class_weights, Tensor sums, Tensor places, Tensor weights) "
      "-> Tensor[]");
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("detection_loss", &loss_op);
  library.impl("detection_loss_gradient", &gradient_op);
}

}  // namespace yolov12_kernels
