// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA as docker/kernels/fused_conv.cu, decode.cu and attend.cu need to be compiled by g++ and run on the CPU, block after block. All threads of a block take turns
// on one thread of the CPU, each until it waits for others: thousands of barriers take a moment, where threads of the CPU would take minutes.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __align__(bytes)
#define __device__
#define __global__
#define __grid_constant__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

#define __expf(x) std::exp(x)  // of that name glibc has one that it does not give

using cudaStream_t = void*;

struct dim3 {
  int x, y, z;
  dim3(int x = 1, int y = 1, int z = 1) : x(x), y(y), z(z) {}
  int count() const { return x * y * z; }
  dim3 at(int i) const { return {i % x, i / x % y, i / (x * y)}; }
};

constexpr int kThreadsOfWarp = 32;

struct Barrier {
  int needed = 0, arrived = 0, times = 0;
};

struct Warp {
  Barrier barrier;
  double shown[kThreadsOfWarp][6];  // what each thread shows to the others
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Thread {
  static constexpr size_t kStackBytes = 256 * 1024;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool is_done = false;
  std::vector<std::vector<Copy>> groups{1};  // of copies that are on their way; the last is open
};

inline dim3 threadIdx, blockIdx, gridDim;
inline std::vector<Thread> threads_here;
inline std::vector<Warp> warps_here;
inline std::vector<unsigned char> shared_here;
inline Barrier block_barrier;
inline ucontext_t between_turns;
inline std::function<void()> kernel_here;

inline Thread& thread_here() { return threads_here[threadIdx.x]; }
inline int lane() { return threadIdx.x % kThreadsOfWarp; }
#define lane_here lane()

inline void end_turn() { swapcontext(&thread_here().context, &between_turns); }

inline void wait_at(Barrier& barrier) {
  const int times = barrier.times;
  if (++barrier.arrived == barrier.needed) {
    barrier.arrived = 0;
    ++barrier.times;
  } else {
    while (barrier.times == times) end_turn();
  }
}

inline void __syncthreads() { wait_at(block_barrier); }

// Calls `call` with all that the threads of the warp show, `kCount` numbers of each.
template <typename Number, int kCount, typename Call>
auto together(const Number (&mine)[kCount], const Call& call) {
  Warp& warp = warps_here[threadIdx.x / kThreadsOfWarp];
  for (int i = 0; i < kCount; ++i) warp.shown[lane()][i] = mine[i];
  wait_at(warp.barrier);
  const auto made = call(warp.shown);
  wait_at(warp.barrier);
  return made;
}

template <typename Number>
Number __shfl_xor_sync(unsigned, Number mine, int distance) {
  return together<Number, 1>({mine}, [distance](const auto& shown) { return static_cast<Number>(shown[lane() ^ distance][0]); });
}

inline void run_thread() {
  kernel_here();
  thread_here().is_done = true;
  end_turn();
}

inline void launch(dim3 blocks, int threads, int shared_bytes, const std::function<void()>& call) {
  constexpr int kNotANumber = 0xff;
  kernel_here = call;
  gridDim = blocks;
  for (int block = 0; block < blocks.count(); ++block) {
    blockIdx = blocks.at(block);
    shared_here.assign(shared_bytes, kNotANumber);
    threads_here = std::vector<Thread>(threads);
    warps_here = std::vector<Warp>(threads / kThreadsOfWarp);
    for (Warp& warp : warps_here) warp.barrier.needed = kThreadsOfWarp;
    block_barrier = Barrier{threads};
    for (Thread& thread : threads_here) {
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = Thread::kStackBytes;
      makecontext(&thread.context, run_thread, 0);
    }
    for (int left = threads; left > 0;) {
      left = 0;
      for (int i = 0; i < threads; ++i) {
        if (threads_here[i].is_done) continue;
        ++left;
        threadIdx = dim3(i);
        swapcontext(&between_turns, &threads_here[i].context);
      }
    }
  }
}
