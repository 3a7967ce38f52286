// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <limits>
#include <type_traits>

#include "batch_norm_act.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMostColumns = 16;  // few, so that a block has many rows: it adds these up, and the blocks' sums are what `finish` reads
constexpr int kFinishChannels = 32, kFinishParts = 32;

// Of a kernel: the rows that a thread loads before it computes, and how many blocks a multiprocessor has room for at least. More of one leaves
// fewer registers for the other.
struct Tuning {
  int rows_at_once;
  int blocks;
};
#if __CUDA_ARCH__ == 750  // whose multiprocessors run 1024 threads
constexpr int kMostBlocks = 1024 / kThreads;
#else
constexpr int kMostBlocks = 1536 / kThreads;
#endif
// On an H200 few blocks with many loads under way were best for sums, and many short ones for what writes (batch_norm_variants.log of 2026-11-29).
constexpr Tuning kSumValues{4, 2}, kApply{2, std::min(5, kMostBlocks)}, kSumGradients{4, 2}, kGradient{2, 4};
constexpr int kRowsOfSum = 2, kRowsOfWriter = 4;  // of a thread: of one that adds up at least, of one that writes at most

// How a launch shares the matrix. A block takes `columns` loads of a row side by side, of `lines` rows, and then of every row that is as far
// above as all blocks together have lines; `groups` blocks side by side cover all channels.
struct Share {
  int64_t rows;
  int channels, columns, lines, groups, blocks;
  int each, more;  // rows of a thread: `each`, and one more for the first `more` lines
  int grid() const { return blocks * groups; }
};

Share share_of(const Shape& shape, int rows_of_thread, int64_t most_blocks) {
  Share share{};
  share.rows = shape.rows;
  share.channels = shape.channels;
  const int loads = shape.channels / elements_per_load(shape.type);
  share.groups = (loads + kMostColumns - 1) / kMostColumns;
  share.columns = (loads + share.groups - 1) / share.groups;
  share.lines = kThreads / share.columns;
  const int64_t rows_of_block = static_cast<int64_t>(share.lines) * rows_of_thread;
  const int64_t wanted = (shape.rows + rows_of_block - 1) / rows_of_block;
  share.blocks = static_cast<int>(std::max<int64_t>(std::min(wanted, most_blocks / share.groups), 1));
  const int64_t step = static_cast<int64_t>(share.blocks) * share.lines;
  share.each = static_cast<int>(shape.rows / step);
  share.more = static_cast<int>(shape.rows % step);
  return share;
}

// As many blocks as run at once: none begins when others are through, and their sums are few.
Share share_of_sums(const Shape& shape, const Tuning& tuning, int multiprocessors) {
  return share_of(shape, kRowsOfSum, static_cast<int64_t>(multiprocessors) * tuning.blocks);
}

Share share_of_writer(const Shape& shape) { return share_of(shape, kRowsOfWriter, std::numeric_limits<int64_t>::max()); }

// What a thread has of it: loads at `channel` of `rows` rows, of which the first is `first` and each other one `step` above the one before. All
// passes begin at the end: what wrote the tensor wrote that last, so that the cache still holds it, and what reads the result begins with what
// was written last here.
struct Part {
  int block, line, column, channel;
  int rows;
  int64_t first, step;

  __device__ Part(const Share& share, int load) {
    block = blockIdx.x / share.groups;
    line = threadIdx.x / share.columns;
    column = threadIdx.x % share.columns;
    channel = (blockIdx.x % share.groups * share.columns + column) * load;
    const int row = block * share.lines + line;
    const bool has_work = line < share.lines && channel < share.channels;
    rows = has_work ? share.each + (row < share.more) : 0;
    first = share.rows - 1 - row;
    step = share.blocks * share.lines;
  }
};

// Goes through a thread's rows.
template <typename T>
struct Cursor {
  T* at;
  int64_t jump;
  __device__ Cursor(const Rows& rows, const Part& part)
      : at(static_cast<T*>(rows.data) + part.first * rows.stride + part.channel), jump(-part.step * rows.stride) {}
  __device__ T* next() {
    T* const here = at;
    at += jump;
    return here;
  }
};

// Loads stay words until they are used: types of 16 bits under a condition would be copied one by one.
template <typename T>
__device__ uint4 load(const T* from) {
  return __ldg(reinterpret_cast<const uint4*>(from));
}

template <typename T>
__device__ void unpack(float (&values)[Vector<T>::kSize], const uint4& words) {
  const Vector<T>& vector = reinterpret_cast<const Vector<T>&>(words);
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) values[i] = to_float(vector.values[i]);
}

// A bfloat16 is the upper half of a float32: one instruction each, where the compiler finds more.
template <>
__device__ void unpack<__nv_bfloat16>(float (&values)[8], const uint4& words) {
  const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(pairs[i] << 16);
    values[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

template <typename T>
__device__ Vector<T> pack(const float (&values)[Vector<T>::kSize]) {
  Vector<T> vector;
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) vector.values[i] = from_float<T>(values[i]);
  return vector;
}

template <typename T>
__device__ void store(T* to, const float (&values)[Vector<T>::kSize]) {
  *reinterpret_cast<Vector<T>*>(to) = pack<T>(values);
}

template <int kSize>
__device__ void load_constants(float (&values)[kSize], const float* constants) {
#pragma unroll
  for (int i = 0; i < kSize; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(constants + i);
    values[i] = four.x;
    values[i + 1] = four.y;
    values[i + 2] = four.z;
    values[i + 3] = four.w;
  }
}

// 1 / (1 + exp(-z)), wrong by a few units of float32's last place. By approximate instructions: a division would be eight and a branch, for which
// memory would wait. Those of the special function unit are few a cycle too, so two numbers share a reciprocal; kMostPower keeps the product finite.
template <int kSize>
__device__ void sigmoids(float (&results)[kSize], const float (&z)[kSize]) {
  constexpr float kLog2E = 1.44269504f, kMostPower = 60.0f;
  float denominators[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fminf(z[i] * -kLog2E, kMostPower)));
    denominators[i] = 1.0f + power;
  }
#pragma unroll
  for (int i = 0; i < kSize; i += 2) {
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(denominators[i] * denominators[i + 1]));
    results[i] = reciprocal * denominators[i + 1];
    results[i + 1] = reciprocal * denominators[i];
  }
}

// act(z)
template <Activation kActivation, int kSize>
__device__ void activate(float (&values)[kSize], const float (&z)[kSize]) {
  if (kActivation == Activation::kSiLU) sigmoids(values, z);
#pragma unroll
  for (int i = 0; i < kSize; ++i)
    values[i] = kActivation == Activation::kSiLU ? __fmul_rn(z[i], values[i]) : z[i];  // rounded, also where it is added to something
}

// d act(z) / dz
template <Activation kActivation, int kSize>
__device__ void slopes(float (&values)[kSize], const float (&z)[kSize]) {
  if (kActivation == Activation::kSiLU) sigmoids(values, z);
#pragma unroll
  for (int i = 0; i < kSize; ++i)
    values[i] = kActivation == Activation::kSiLU ? values[i] * (1.0f + z[i] * (1.0f - values[i])) : 1.0f;
}

// Adds up the lines of a block: each thread brings two sums for each of its channels, the block writes one of each.
template <int kSize>
__device__ void write_block_sums(const float (&first)[kSize], const float (&second)[kSize], const Share& share, const Part& part,
                                 float* partials) {
  __shared__ float shared[kThreads * 2 * kSize];
  const int half = share.columns * kSize, sums = 2 * half;
  if (part.line < share.lines) {
    float* const mine = shared + part.line * sums + part.column * kSize;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      mine[i] = first[i];
      mine[half + i] = second[i];
    }
  }
  __syncthreads();
  // Where there are more threads than sums, several add up some of the lines each; then one adds up theirs.
  int lines = share.lines;
  if (kThreads >= 2 * sums) {
    const int helpers = kThreads / sums, at = threadIdx.x % sums, helper = threadIdx.x / sums;
    if (helper < helpers) {
      float sum = 0.0f;
#pragma unroll 4
      for (int line = helper; line < share.lines; line += helpers) sum += shared[line * sums + at];
      shared[helper * sums + at] = sum;  // which nobody else reads before
    }
    __syncthreads();
    lines = helpers;
  }
  const int first_channel = part.channel - part.column * kSize;
  for (int i = threadIdx.x; i < sums; i += kThreads) {
    float sum = 0.0f;
#pragma unroll 4
    for (int line = 0; line < lines; ++line) sum += shared[line * sums + i];
    const bool is_second = i >= half;
    const int channel = first_channel + i - (is_second ? half : 0);
    if (channel < share.channels) partials[(2 * static_cast<int64_t>(part.block) + is_second) * share.channels + channel] = sum;
  }
}

// Sums of y - y[0] and its square: taken from the first row, so that a mean far from zero does not swallow the variance.
template <typename T>
__global__ void __launch_bounds__(kThreads, kSumValues.blocks) sum_values(Rows y, Share share, float* partials) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kSumValues.rows_at_once;
  const Part part(share, kSize);
  float sums[kSize] = {}, squares[kSize] = {};
  if (part.rows > 0) {
    const uint4 first = load(static_cast<const T*>(y.data) + part.channel);
    Cursor<const T> from(y, part);
    float origin[kSize];
    unpack<T>(origin, first);
#pragma unroll 1
    for (int left = part.rows; left > 0; left -= kAtOnce) {
      uint4 in[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const T* const at = from.next();
        in[k] = k < left ? load(at) : first;  // which adds nothing
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        float values[kSize];
        unpack<T>(values, in[k]);
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const float value = values[i] - origin[i];
          sums[i] += value;
          squares[i] += value * value;
        }
      }
    }
  }
  write_block_sums<kSize>(sums, squares, share, part, partials);
}

// Two sums over the blocks for each channel. A warp of threads reads neighbouring channels of some of the blocks. True for the thread that goes on
// with them.
__device__ bool sum_over_blocks(const float* partials, int blocks, int channels, int channel, double* first, double* second) {
  __shared__ double shared[2][kFinishParts][kFinishChannels];
  double a = 0.0, b = 0.0;
  if (channel < channels) {
#pragma unroll 8
    for (int block = threadIdx.y; block < blocks; block += kFinishParts) {
      const float* const of_block = partials + 2 * static_cast<int64_t>(block) * channels + channel;
      a += of_block[0];
      b += of_block[channels];
    }
  }
  shared[0][threadIdx.y][threadIdx.x] = a;
  shared[1][threadIdx.y][threadIdx.x] = b;
#pragma unroll
  for (int parts = kFinishParts / 2; parts > 0; parts /= 2) {
    __syncthreads();
    if (threadIdx.y < 2 * parts) {
      double(*const half)[kFinishChannels] = shared[threadIdx.y / parts];
      const int at = threadIdx.y % parts;
      half[at][threadIdx.x] += half[at + parts][threadIdx.x];
    }
  }
  __syncthreads();
  *first = shared[0][0][threadIdx.x];
  *second = shared[1][0][threadIdx.x];
  return threadIdx.y == 0 && channel < channels;
}

template <typename T>
__global__ void __launch_bounds__(kFinishChannels* kFinishParts)
    finish_statistics(const T* y, const float* partials, int blocks, int64_t rows, int channels, const float* gamma, const float* beta,
                      float epsilon, Running running, float* constants) {
  const int channel = blockIdx.x * kFinishChannels + threadIdx.x, there = std::min(channel, channels - 1);
  // These are on their way while the sums are.
  const float origin = to_float(y[there]), weight = gamma[there], bias = beta[there];
  const float old_mean = running.mean != nullptr ? running.mean[there] : 0.0f;
  const float old_variance = running.mean != nullptr ? running.variance[there] : 0.0f;
  double sum, squares;
  if (!sum_over_blocks(partials, blocks, channels, channel, &sum, &squares)) return;
  const double shifted_mean = sum / rows;
  const double variance = fmax(squares / rows - shifted_mean * shifted_mean, 0.0);
  // Added in double: a mean near zero is a small difference of two numbers that are not.
  const float mean = static_cast<float>(origin + shifted_mean);
  const float inverse_deviation = rsqrtf(static_cast<float>(variance) + epsilon);
  const float scale = weight * inverse_deviation;
  constants[kMean * channels + channel] = mean;
  constants[kInverseDeviation * channels + channel] = inverse_deviation;
  constants[kScale * channels + channel] = scale;
  constants[kShift * channels + channel] = bias - mean * scale;
  if (running.mean != nullptr) {
    const float unbiased = static_cast<float>(variance * (static_cast<double>(rows) / fmax(static_cast<double>(rows) - 1.0, 1.0)));
    running.mean[channel] = old_mean + running.momentum * (mean - old_mean);
    running.variance[channel] = old_variance + running.momentum * (unbiased - old_variance);
  }
  if (running.batches != nullptr && channel == 0) *running.batches += 1;
}

template <typename T, Activation kActivation, bool kAccumulate>
__global__ void __launch_bounds__(kThreads, kApply.blocks) apply_kernel(Rows y, Share share, const float* __restrict__ constants, Rows out) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kApply.rows_at_once;
  const Part part(share, kSize);
  if (part.rows == 0) return;
  float scale[kSize], shift[kSize];
  load_constants(scale, constants + kScale * share.channels + part.channel);
  load_constants(shift, constants + kShift * share.channels + part.channel);
  Cursor<const T> from(y, part);
  Cursor<T> to(out, part);
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= kAtOnce) {
    uint4 in[kAtOnce], before[kAtOnce];
    Cursor<T> from_out = to;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const T *const at = from.next(), *const out_at = from_out.next();
      in[k] = k < left ? load(at) : uint4{};
      if (kAccumulate) before[k] = k < left ? *reinterpret_cast<const uint4*>(out_at) : uint4{};
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      float z[kSize], values[kSize];
      unpack<T>(z, in[k]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) z[i] = z[i] * scale[i] + shift[i];
      activate<kActivation>(values, z);
      if (kAccumulate) {
        // Rounded before the addition, as where the two are operations of their own: what is rebuilt is then what was.
        const Vector<T> rounded = pack<T>(values);
        float sums[kSize];
        unpack<T>(sums, before[k]);
        unpack<T>(values, reinterpret_cast<const uint4&>(rounded));
#pragma unroll
        for (int i = 0; i < kSize; ++i) values[i] += sums[i];
      }
      T* const at = to.next();
      if (k < left) store(at, values);
    }
  }
}

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads, kSumGradients.blocks)
    sum_gradients(Rows y, Rows grad_out, Share share, const float* __restrict__ constants, float* partials) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kSumGradients.rows_at_once;
  const Part part(share, kSize);
  float sums[kSize] = {}, products[kSize] = {};
  if (part.rows > 0) {
    float scale[kSize], shift[kSize], mean[kSize];
    load_constants(scale, constants + kScale * share.channels + part.channel);
    load_constants(shift, constants + kShift * share.channels + part.channel);
    load_constants(mean, constants + kMean * share.channels + part.channel);
    Cursor<const T> from(y, part), from_grad(grad_out, part);
#pragma unroll 1
    for (int left = part.rows; left > 0; left -= kAtOnce) {
      uint4 in[kAtOnce], grad[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const T *const at = from.next(), *const grad_at = from_grad.next();
        in[k] = k < left ? load(at) : uint4{};
        grad[k] = k < left ? load(grad_at) : uint4{};  // zeros add nothing
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        float values[kSize], grads[kSize], z[kSize], slope[kSize];
        unpack<T>(values, in[k]);
        unpack<T>(grads, grad[k]);
#pragma unroll
        for (int i = 0; i < kSize; ++i) z[i] = values[i] * scale[i] + shift[i];
        slopes<kActivation>(slope, z);
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const float grad_z = grads[i] * slope[i];
          sums[i] += grad_z;
          products[i] += grad_z * (values[i] - mean[i]);
        }
      }
    }
  }
  write_block_sums<kSize>(sums, products, share, part, partials);
}

// Also what is subtracted from a gradient, in terms of z = scale * y + shift: a constant, and a multiple of z.
__global__ void __launch_bounds__(kFinishChannels* kFinishParts)
    finish_gradients(const float* partials, int blocks, int64_t rows, int channels, const float* constants, float* grad_gamma,
                     float* grad_beta, float* corrections) {
  const int channel = blockIdx.x * kFinishChannels + threadIdx.x, there = std::min(channel, channels - 1);
  const float mean = constants[kMean * channels + there], inverse_deviation = constants[kInverseDeviation * channels + there];
  const float scale = constants[kScale * channels + there], shift = constants[kShift * channels + there];
  double sum, product;
  if (!sum_over_blocks(partials, blocks, channels, channel, &sum, &product)) return;
  grad_beta[channel] = static_cast<float>(sum);
  grad_gamma[channel] = static_cast<float>(product * inverse_deviation);
  // scale * (sum / rows + (y - mean) * factor), where z is scale * mean + shift at the mean
  const float factor = inverse_deviation * inverse_deviation * static_cast<float>(product / rows);
  corrections[channel] = scale * static_cast<float>(sum / rows) - factor * (scale * mean + shift);
  corrections[channels + channel] = factor;
}

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads, kGradient.blocks)
    gradient_kernel(Rows y, Rows grad_out, Share share, const float* __restrict__ constants, const float* __restrict__ corrections,
                    Rows grad_y) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kGradient.rows_at_once;
  const Part part(share, kSize);
  if (part.rows == 0) return;
  float scale[kSize], shift[kSize], offset[kSize], factor[kSize];
  load_constants(scale, constants + kScale * share.channels + part.channel);
  load_constants(shift, constants + kShift * share.channels + part.channel);
  load_constants(offset, corrections + part.channel);
  load_constants(factor, corrections + share.channels + part.channel);
  Cursor<const T> from(y, part), from_grad(grad_out, part);
  Cursor<T> to(grad_y, part);
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= kAtOnce) {
    uint4 in[kAtOnce], grad[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const T *const at = from.next(), *const grad_at = from_grad.next();
      in[k] = k < left ? load(at) : uint4{};
      grad[k] = k < left ? load(grad_at) : uint4{};
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      float z[kSize], grads[kSize], slope[kSize];
      unpack<T>(z, in[k]);
      unpack<T>(grads, grad[k]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) z[i] = z[i] * scale[i] + shift[i];
      slopes<kActivation>(slope, z);
#pragma unroll
      for (int i = 0; i < kSize; ++i) z[i] = scale[i] * (grads[i] * slope[i]) - (offset[i] + factor[i] * z[i]);
      T* const at = to.next();
      if (k < left) store(at, z);
    }
  }
}

// The kernels are templates over type and activation; this picks the instance. `call` takes (T*, Chosen).
template <Activation kActivation>
struct Chosen {
  static constexpr Activation value = kActivation;
};

template <typename Call>
void with_types(const Shape& shape, const Call& call) {
  with_type(shape.type, [&](auto* type) {
    if (shape.activation == Activation::kSiLU)
      call(type, Chosen<Activation::kSiLU>());
    else
      call(type, Chosen<Activation::kNone>());
  });
}

// Blocks and threads of the kernels that finish sums.
int finish_blocks(int channels) { return (channels + kFinishChannels - 1) / kFinishChannels; }
const dim3 kFinishThreads(kFinishChannels, kFinishParts);

int64_t partial_sums(const Share& share) { return 2 * static_cast<int64_t>(share.blocks) * share.channels; }

}  // namespace

int elements_per_load(Type type) { return kLoadBytes / (type == Type::kFloat ? 4 : 2); }

int64_t statistics_scratch(const Shape& shape, int multiprocessors) { return partial_sums(share_of_sums(shape, kSumValues, multiprocessors)); }

int64_t gradient_scratch(const Shape& shape, int multiprocessors) {
  return partial_sums(share_of_sums(shape, kSumGradients, multiprocessors)) + 2 * static_cast<int64_t>(shape.channels);
}

void statistics(const Shape& shape, Rows y, const float* gamma, const float* beta, float epsilon, Running running, float* constants,
                float* scratch, int multiprocessors, cudaStream_t stream) {
  const Share share = share_of_sums(shape, kSumValues, multiprocessors);
  with_types(shape, [&](auto* type, auto) {
    using T = std::remove_pointer_t<decltype(type)>;
    sum_values<T><<<share.grid(), kThreads, 0, stream>>>(y, share, scratch);
    finish_statistics<T><<<finish_blocks(shape.channels), kFinishThreads, 0, stream>>>(static_cast<const T*>(y.data), scratch, share.blocks,
                                                                                       shape.rows, shape.channels, gamma, beta, epsilon,
                                                                                       running, constants);
  });
}

void apply(const Shape& shape, Rows y, const float* constants, Rows out, bool accumulate, cudaStream_t stream) {
  const Share share = share_of_writer(shape);
  with_types(shape, [&](auto* type, auto activation) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr Activation kActivation = decltype(activation)::value;
    if (accumulate)
      apply_kernel<T, kActivation, true><<<share.grid(), kThreads, 0, stream>>>(y, share, constants, out);
    else
      apply_kernel<T, kActivation, false><<<share.grid(), kThreads, 0, stream>>>(y, share, constants, out);
  });
}

void gradient(const Shape& shape, Rows y, Rows grad_out, const float* constants, Rows grad_y, float* grad_gamma, float* grad_beta,
              float* scratch, int multiprocessors, cudaStream_t stream) {
  const Share sums = share_of_sums(shape, kSumGradients, multiprocessors), all = share_of_writer(shape);
  float* const corrections = scratch + partial_sums(sums);
  with_types(shape, [&](auto* type, auto activation) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr Activation kActivation = decltype(activation)::value;
    sum_gradients<T, kActivation><<<sums.grid(), kThreads, 0, stream>>>(y, grad_out, sums, constants, scratch);
    finish_gradients<<<finish_blocks(shape.channels), kFinishThreads, 0, stream>>>(scratch, sums.blocks, shape.rows, shape.channels, constants,
                                                                                   grad_gamma, grad_beta, corrections);
    gradient_kernel<T, kActivation><<<all.grid(), kThreads, 0, stream>>>(y, grad_out, all, constants, corrections, grad_y);
  });
}

}  // namespace yolov12_kernels
