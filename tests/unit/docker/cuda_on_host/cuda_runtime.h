// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA as the kernels of docker/kernels need to be compiled by g++ and run on the CPU. What `kernel<<<blocks, threads, 0, stream>>>(...)`
// means is `launch`; the test writes it so. Blocks run one after the other. The threads of a block take turns in one thread of the CPU, each until it
// waits for others: real ones, hundreds of them, would do little but wake each other.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

#define __expf(x) std::exp(x)  // glibc has one of that name, which it keeps for itself

using cudaStream_t = void*;

using std::max, std::min;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline uint4 __ldg(const uint4* from) { return *from; }
inline float __fmul_rn(float a, float b) { return a * b; }  // compiled without fused multiply-adds
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int atomicAdd(int* to, int number) {  // one thread at a time has its turn
  const int before = *to;
  *to += number;
  return before;
}

struct dim3 {
  int x, y, z;
  dim3(int x = 1, int y = 1, int z = 1) : x(x), y(y), z(z) {}
  int count() const { return x * y * z; }
  dim3 at(int i) const { return {i % x, i / x % y, i / (x * y)}; }
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread whose turn it is
inline ucontext_t turns;                   // where it is said whose turn comes next
inline ucontext_t* here;

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int time = time_;
    if (++arrived_ == threads_) {
      arrived_ = 0;
      ++time_;
    }
    while (time == time_) swapcontext(here, &turns);
  }

 private:
  int threads_, arrived_ = 0, time_ = 0;
};

inline Barrier* block_barrier;

inline void __syncthreads() { block_barrier->wait(); }

// ---- what the 32 threads of a warp do together: all of them, or it waits for ever ----

constexpr int kThreadsOfWarp = 32;

struct Warp {
  explicit Warp(int threads) : barrier(threads) {}
  Barrier barrier;
  double shown[kThreadsOfWarp][6];  // what each thread shows to the others
};
inline Warp* warp_here;
inline int lane_here;

// Calls `call` with all that the threads show, `count` numbers of each.
template <typename Number, int kCount, typename Call>
auto together(const Number (&mine)[kCount], const Call& call) {
  Warp& warp = *warp_here;
  for (int i = 0; i < kCount; ++i) warp.shown[lane_here][i] = mine[i];
  warp.barrier.wait();
  const auto made = call(warp.shown);
  warp.barrier.wait();
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

template <typename Number>
Number __shfl_xor_sync(unsigned all, Number mine, int distance) {
  return __shfl_sync(all, mine, lane_here ^ distance);
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) made |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return made;
}

// ---- launching ----

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool is_done;
};
inline std::function<void()> running_kernel;
inline Thread* running_thread;

inline void run_thread() {
  running_kernel();
  running_thread->is_done = true;
}

template <typename Call>
void launch(dim3 blocks, dim3 threads, const Call& call) {
  constexpr size_t kStackBytes = 128 * 1024;
  running_kernel = call;
  gridDim = blocks;
  blockDim = threads;
  std::vector<Thread> all(threads.count());
  for (Thread& one : all) one.stack.reset(new char[kStackBytes]);
  for (int block = 0; block < blocks.count(); ++block) {
    blockIdx = blocks.at(block);
    Barrier barrier(threads.count());
    block_barrier = &barrier;
    std::vector<Warp> warps;
    for (int left = threads.count(); left > 0; left -= kThreadsOfWarp) warps.emplace_back(left < kThreadsOfWarp ? left : kThreadsOfWarp);
    for (Thread& one : all) {
      getcontext(&one.context);
      one.context.uc_stack = {one.stack.get(), 0, kStackBytes};
      one.context.uc_link = &turns;
      one.is_done = false;
      makecontext(&one.context, run_thread, 0);
    }
    for (int working = threads.count(); working > 0;) {
      for (int i = 0; i < threads.count(); ++i) {
        if (all[i].is_done) continue;
        threadIdx = threads.at(i);
        warp_here = &warps[i / kThreadsOfWarp];
        lane_here = i % kThreadsOfWarp;
        running_thread = &all[i];
        here = &all[i].context;
        swapcontext(&turns, here);
        working -= all[i].is_done;
      }
    }
  }
}
