// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA as docker/kernels/augment.cu and stem.cu need to be compiled by g++ and run on the CPU: one thread of the CPU for each thread of a
// block, block after block. What `kernel<<<blocks, threads, 0, stream>>>(...)` means is `launch`; the test writes it so.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

using cudaStream_t = void*;

struct dim3 {
  int x, y, z;
  dim3(int x = 1, int y = 1, int z = 1) : x(x), y(y), z(z) {}
  int count() const { return x * y * z; }
  dim3 at(int i) const { return {i % x, i / x % y, i / (x * y)}; }
};

inline thread_local dim3 threadIdx, blockIdx, gridDim;
inline pthread_barrier_t block_barrier;

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }

// ---- what the 32 threads of a warp do together: all of them, or it waits for ever ----

constexpr int kThreadsOfWarp = 32;

struct Warp {
  pthread_barrier_t barrier;
  double shown[kThreadsOfWarp][6];  // what each thread shows to the others
};
inline thread_local Warp* warp_here;
inline thread_local int lane_here;

// Calls `call` with all that the threads show, `count` numbers of each.
template <typename Number, int kCount, typename Call>
auto together(const Number (&mine)[kCount], const Call& call) {
  for (int i = 0; i < kCount; ++i) warp_here->shown[lane_here][i] = mine[i];
  pthread_barrier_wait(&warp_here->barrier);
  const auto made = call(warp_here->shown);
  pthread_barrier_wait(&warp_here->barrier);
  return made;
}

template <typename Number>
Number __shfl_sync(unsigned, Number mine, int from) {
  return together<Number, 1>({mine}, [from](const auto& shown) { return static_cast<Number>(shown[from][0]); });
}

template <typename Number>
Number __shfl_down_sync(unsigned all, Number mine, int distance) {
  const int from = lane_here + distance;
  return __shfl_sync(all, mine, from < kThreadsOfWarp ? from : lane_here);
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) made |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return made;
}

template <typename Call>
void launch(dim3 blocks, dim3 threads, const Call& call) {
  pthread_barrier_init(&block_barrier, nullptr, threads.count());
  std::deque<Warp> warps;
  for (int first = 0; first < threads.count(); first += kThreadsOfWarp) {
    const int left = threads.count() - first;
    pthread_barrier_init(&warps.emplace_back().barrier, nullptr, left < kThreadsOfWarp ? left : kThreadsOfWarp);
  }
  std::vector<std::thread> running;
  for (int thread = 0; thread < threads.count(); ++thread)
    running.emplace_back([=, &call, &warps] {
      threadIdx = threads.at(thread);
      gridDim = blocks;
      warp_here = &warps[thread / kThreadsOfWarp];
      lane_here = thread % kThreadsOfWarp;
      for (int block = 0; block < blocks.count(); ++block) {
        blockIdx = blocks.at(block);
        call();
        __syncthreads();  // the next block has the same shared memory
      }
    });
  for (std::thread& one : running) one.join();
  for (Warp& one : warps) pthread_barrier_destroy(&one.barrier);
  pthread_barrier_destroy(&block_barrier);
}
