// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA as augment.cu and batch_norm_act.cu of docker/kernels need to be compiled by g++ and run on the CPU: one thread of the CPU for each thread of a block,
// block after block. What `kernel<<<blocks, threads, 0, stream>>>(...)` means is `launch`; the test writes it so.
#pragma once

#include <pthread.h>

#include <cmath>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static

using cudaStream_t = void*;

struct dim3 {
  int x, y, z;
  dim3(int x = 1, int y = 1, int z = 1) : x(x), y(y), z(z) {}
  int count() const { return x * y * z; }
  dim3 at(int i) const { return {i % x, i / x % y, i / (x * y)}; }
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline uint4 __ldg(const uint4* from) { return *from; }
inline float __fmul_rn(float a, float b) { return a * b; }  // compiled without fused multiply-adds
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

inline thread_local dim3 threadIdx, blockIdx;
inline pthread_barrier_t block_barrier;

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }

template <typename Call>
void launch(dim3 blocks, dim3 threads, const Call& call) {
  pthread_barrier_init(&block_barrier, nullptr, threads.count());
  std::vector<std::thread> running;
  for (int thread = 0; thread < threads.count(); ++thread)
    running.emplace_back([=, &call] {
      threadIdx = threads.at(thread);
      for (int block = 0; block < blocks.count(); ++block) {
        blockIdx = blocks.at(block);
        call();
        __syncthreads();  // the next block has the same shared memory
      }
    });
  for (std::thread& one : running) one.join();
  pthread_barrier_destroy(&block_barrier);
}
