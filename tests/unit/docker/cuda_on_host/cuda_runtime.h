// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA as docker/kernels/augment.cu and depthwise.cu need to be compiled by g++ and run on the CPU: one thread of the CPU for each thread of a block,
// block after block. What `kernel<<<blocks, threads, 0, stream>>>(...)` means is `launch`; the test writes it so.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __shared__ static

using cudaStream_t = void*;

using std::max, std::min;

struct dim3 {
  int x, y, z;
  dim3(int x = 1, int y = 1, int z = 1) : x(x), y(y), z(z) {}
  int count() const { return x * y * z; }
  dim3 at(int i) const { return {i % x, i / x % y, i / (x * y)}; }
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
inline pthread_barrier_t block_barrier;

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }

template <typename Call>
void launch(dim3 blocks, dim3 threads, const Call& call) {
  pthread_barrier_init(&block_barrier, nullptr, threads.count());
  std::vector<std::thread> running;
  for (int thread = 0; thread < threads.count(); ++thread)
    running.emplace_back([=, &call] {
      threadIdx = threads.at(thread), blockDim = threads, gridDim = blocks;
      for (int block = 0; block < blocks.count(); ++block) {
        blockIdx = blocks.at(block);
        call();
        __syncthreads();  // the next block has the same shared memory
      }
    });
  for (std::thread& one : running) one.join();
  pthread_barrier_destroy(&block_barrier);
}
