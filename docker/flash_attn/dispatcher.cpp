// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops flash_attn_hd32::forward and ::backward, in front of FlashAttention-2's kernels for head dimension 32.
//
// The kernels read raw pointers and strides, so that everything they take for granted is checked here, with a message that says what was
// seen. No Python header is included: the library loads into every Python that has the torch it was built against.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cutlass/numeric_types.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>

#include "flash.h"

namespace flash_attn_hd32 {
namespace {

constexpr int64_t kHeadDim = 32;
constexpr int64_t kAlignmentBytes = 16;  // the kernels load and store 128 bits at a time
constexpr int64_t kAlignmentElements = kAlignmentBytes / 2;
constexpr int64_t kGridLimit = 65535;  // batch and heads are the y and z of a CUDA grid
constexpr int64_t kRowMultiple = 128;  // scratch rows are padded to whole tiles
constexpr int kCodeArchs[] = {FLASH_ATTN_HD32_ARCHS};  // 80, 90, ...: the GPU code in this library, from build.py

int64_t padded_rows(int64_t rows) { return (rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple; }

int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Code for sm_80 runs on 8.0, 8.6 and 8.9, but not on 9.0: a cubin serves its own major version, from its own minor version on.
void check_gpu(int device) {
  const int major = device_attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = device_attribute(cudaDevAttrComputeCapabilityMinor, device);
  TORCH_CHECK(major >= 8, "flash_attn_hd32 needs compute capability 8.0 or newer, and this GPU has ", major, ".", minor,
              ": use torch.nn.functional.scaled_dot_product_attention");
  const bool served = std::any_of(std::begin(kCodeArchs), std::end(kCodeArchs),
                                  [&](int arch) { return arch / 10 == major && arch % 10 <= minor; });
  TORCH_CHECK(served, "flash_attn_hd32 was built for sm_", c10::Join(", sm_", c10::ArrayRef<int>(kCodeArchs)),
              ", and this GPU is sm_", major, minor, ": build with ARCHS=", major, minor);
}

// Why the kernels can not read or write `t` in place; nullptr if they can. Strides of dimensions of size 1 are never used.
const char* unreadable(const at::Tensor& t) {
  if (t.stride(3) != 1) return "its last stride is not 1";
  for (int dim = 0; dim < 3; ++dim)
    if (t.size(dim) > 1 && t.stride(dim) % kAlignmentElements != 0) return "a stride is not a multiple of 8 elements";
  if (reinterpret_cast<uintptr_t>(t.const_data_ptr()) % kAlignmentBytes != 0) return "its first element is not at a multiple of 16 bytes";
  return nullptr;
}

void check_operand(const at::Tensor& t, const char* name, const at::Tensor& q, int64_t rows) {
  TORCH_CHECK(t.is_cuda(), "flash_attn_hd32: ", name, " is on ", t.device(), ", not on a CUDA device");
  TORCH_CHECK(t.device() == q.device(), "flash_attn_hd32: ", name, " is on ", t.device(), " and q on ", q.device());
  TORCH_CHECK(t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16, "flash_attn_hd32: ", name,
              " must be float16 or bfloat16, not ", t.scalar_type());
  TORCH_CHECK(t.scalar_type() == q.scalar_type(), "flash_attn_hd32: ", name, " is ", t.scalar_type(), " and q ", q.scalar_type());
  TORCH_CHECK(t.dim() == 4, "flash_attn_hd32: ", name, " must be (batch, tokens, heads, 32), got ", t.sizes());
  TORCH_CHECK(t.size(0) == q.size(0) && t.size(1) == rows && t.size(2) == q.size(2) && t.size(3) == kHeadDim, "flash_attn_hd32: ", name,
              " must be (", q.size(0), ", ", rows, ", ", q.size(2), ", ", kHeadDim, "), with as many heads as q, got ", t.sizes());
}

void check_readable(const at::Tensor& t, const char* name) {
  const char* reason = unreadable(t);
  TORCH_CHECK(reason == nullptr, "flash_attn_hd32: ", name, " of strides ", t.strides(), " can not be read in place, since ", reason,
              ": copy it first, with ", name, ".clone(memory_format=torch.contiguous_format)");
}

void check_qkv(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "flash_attn_hd32: q and k must be (batch, tokens, heads, 32), got ", q.sizes(), " and ",
              k.sizes());
  check_operand(q, "q", q, q.size(1));
  check_operand(k, "k", q, k.size(1));
  check_operand(v, "v", q, k.size(1));
  check_readable(q, "q");
  check_readable(k, "k");
  check_readable(v, "v");
  TORCH_CHECK(q.numel() > 0 && k.numel() > 0, "flash_attn_hd32: nothing to attend, q is ", q.sizes(), " and k ", k.sizes());
  TORCH_CHECK(q.size(0) <= kGridLimit && q.size(2) <= kGridLimit, "flash_attn_hd32 takes at most ", kGridLimit,
              " for batch and heads, got ", q.size(0), " and ", q.size(2));
  // The kernels count rows of all heads in 32 bits.
  const int64_t rows = padded_rows(std::max(q.size(1), k.size(1)));
  TORCH_CHECK(q.size(0) * q.size(2) <= std::numeric_limits<int32_t>::max() / rows, "flash_attn_hd32: batch * heads * tokens = ", q.size(0),
              " * ", q.size(2), " * ", rows, " is past 2^31 - 1: split the batch");
}

void set_problem(FLASH_NAMESPACE::Flash_fwd_params& params, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                 const at::Tensor& out, const at::Tensor& lse, double softmax_scale) {
  params.q_ptr = q.data_ptr();
  params.k_ptr = k.data_ptr();
  params.v_ptr = v.data_ptr();
  params.o_ptr = out.data_ptr();
  params.softmax_lse_ptr = lse.data_ptr();
  params.q_batch_stride = q.stride(0);
  params.k_batch_stride = k.stride(0);
  params.v_batch_stride = v.stride(0);
  params.o_batch_stride = out.stride(0);
  params.q_row_stride = q.stride(1);
  params.k_row_stride = k.stride(1);
  params.v_row_stride = v.stride(1);
  params.o_row_stride = out.stride(1);
  params.q_head_stride = q.stride(2);
  params.k_head_stride = k.stride(2);
  params.v_head_stride = v.stride(2);
  params.o_head_stride = out.stride(2);

  params.b = static_cast<int>(q.size(0));
  params.seqlen_q = static_cast<int>(q.size(1));
  params.seqlen_k = static_cast<int>(k.size(1));
  params.seqlen_q_rounded = static_cast<int>(padded_rows(q.size(1)));
  params.seqlen_k_rounded = static_cast<int>(padded_rows(k.size(1)));
  params.h = params.h_k = static_cast<int>(q.size(2));
  params.h_h_k_ratio = 1;
  params.d = params.d_rounded = kHeadDim;
  params.is_bf16 = q.scalar_type() == at::kBFloat16;
  params.is_seqlens_k_cumulative = true;

  params.scale_softmax = static_cast<float>(softmax_scale);
  params.scale_softmax_log2 = static_cast<float>(softmax_scale * M_LOG2E);
  // No dropout: every attention weight is kept, and none rescaled.
  params.p_dropout = 1.f;
  params.p_dropout_in_uint8_t = std::numeric_limits<uint8_t>::max();
  params.rp_dropout = 1.f;
  params.scale_softmax_rp_dropout = params.scale_softmax;
  // No causal mask and no window.
  params.is_causal = false;
  params.window_size_left = params.window_size_right = -1;
}

// `deterministic` is for the backward pass, which autograd calls with what it was when the forward ran; the forward always is.
std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double softmax_scale,
                                           bool /*deterministic*/) {
  check_qkv(q, k, v);
  const c10::cuda::CUDAGuard guard(q.device());
  check_gpu(q.get_device());

  const at::Tensor out = at::empty(q.sizes(), q.options());
  const at::Tensor lse = at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat));
  FLASH_NAMESPACE::Flash_fwd_params params{};
  set_problem(params, q, k, v, out, lse, softmax_scale);

  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  if (params.is_bf16) {
    FLASH_NAMESPACE::run_mha_fwd_<cutlass::bfloat16_t, kHeadDim, false>(params, stream);
  } else {
    FLASH_NAMESPACE::run_mha_fwd_<cutlass::half_t, kHeadDim, false>(params, stream);
  }
  return {out, lse};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                                        const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                                        double softmax_scale, bool deterministic) {
  check_qkv(q, k, v);
  check_operand(out, "out", q, q.size(1));
  check_operand(grad_out, "grad_out", q, q.size(1));
  check_readable(out, "out");
  TORCH_CHECK(lse.device() == q.device() && lse.scalar_type() == at::kFloat && lse.is_contiguous() && lse.dim() == 3 &&
                  lse.size(0) == q.size(0) && lse.size(1) == q.size(2) && lse.size(2) == q.size(1),
              "flash_attn_hd32: lse must be what forward returned, got ", lse.scalar_type(), " ", lse.sizes(), " on ", lse.device());
  const c10::cuda::CUDAGuard guard(q.device());
  check_gpu(q.get_device());

  // q, k and v are the caller's to lay out. What autograd hands in is nobody's choice: the gradient of a sum has stride 0 everywhere.
  const at::Tensor dout = unreadable(grad_out) ? grad_out.clone(at::MemoryFormat::Contiguous) : grad_out;
  const at::Tensor dq = at::empty(q.sizes(), q.options());
  const at::Tensor dk = at::empty(k.sizes(), k.options());
  const at::Tensor dv = at::empty(v.sizes(), v.options());

  const int64_t batch = q.size(0), heads = q.size(2), rows = padded_rows(q.size(1));
  const at::TensorOptions fp32 = q.options().dtype(at::kFloat);
  const at::Tensor row_sums = at::empty({batch, heads, rows}, fp32);
  // dq is summed over blocks of keys: in whatever order they finish, by atomic additions into one buffer, or deterministically, each group
  // of blocks into its own buffer and those in order. There are as many groups as keep the GPU busy; the launch counts them the same way.
  const int64_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, q.get_device());
  const int64_t groups = (multiprocessors + batch * heads - 1) / (batch * heads);
  const at::Tensor dq_sums = deterministic ? at::zeros({groups, batch, rows, heads, kHeadDim}, fp32)
                                           : at::empty({batch, rows, heads, kHeadDim}, fp32);

  FLASH_NAMESPACE::Flash_bwd_params params{};
  set_problem(params, q, k, v, out, lse, softmax_scale);
  params.do_ptr = dout.data_ptr();
  params.dq_ptr = dq.data_ptr();
  params.dk_ptr = dk.data_ptr();
  params.dv_ptr = dv.data_ptr();
  params.do_batch_stride = dout.stride(0);
  params.dq_batch_stride = dq.stride(0);
  params.dk_batch_stride = dk.stride(0);
  params.dv_batch_stride = dv.stride(0);
  params.do_row_stride = dout.stride(1);
  params.dq_row_stride = dq.stride(1);
  params.dk_row_stride = dk.stride(1);
  params.dv_row_stride = dv.stride(1);
  params.do_head_stride = dout.stride(2);
  params.dq_head_stride = dq.stride(2);
  params.dk_head_stride = dk.stride(2);
  params.dv_head_stride = dv.stride(2);
  params.dq_accum_ptr = dq_sums.data_ptr();
  params.dsoftmax_sum = row_sums.data_ptr();
  params.deterministic = deterministic;
  params.dq_accum_split_stride = deterministic ? dq_sums.stride(0) : 0;

  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  if (params.is_bf16) {
    FLASH_NAMESPACE::run_mha_bwd_<cutlass::bfloat16_t, kHeadDim, false>(params, stream);
  } else {
    FLASH_NAMESPACE::run_mha_bwd_<cutlass::half_t, kHeadDim, false>(params, stream);
  }
  return {dq, dk, dv};
}

}  // namespace

TORCH_LIBRARY(flash_attn_hd32, library) {
  library.def("forward(Tensor q, Tensor k, Tensor v, float softmax_scale, bool deterministic) -> (Tensor out, Tensor lse)",
              {at::Tag::pt2_compliant_tag});
  library.def(
      "backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float softmax_scale, bool deterministic)"
      " -> (Tensor dq, Tensor dk, Tensor dv)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(flash_attn_hd32, CUDA, library) {
  library.impl("forward", &forward);
  library.impl("backward", &backward);
}

}  // namespace flash_attn_hd32
