// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/pipeline.cuh for g++. A copy is made only when its thread waits for it, and shared memory is full of NaN before: numbers that
// are read too early, or overwritten while others want them, show in the result.
#pragma once

#include <cstdlib>
#include <cstring>
#include <map>

#include "cuda_runtime.h"

namespace yolov12_kernels {

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Groups {
  std::vector<std::vector<Copy>> groups{1};  // that are on their way; the last is open
};

inline std::vector<unsigned char> shared_here;
inline std::map<const Thread*, Groups> copies_here;
inline bool is_begun;
inline dim3 begun;  // the block that runs

// A kernel calls it before anything else, so that each block begins with memory full of NaN and no copies.
inline unsigned char* shared_begin() {
  if (!is_begun || begun.x != blockIdx.x || begun.y != blockIdx.y || begun.z != blockIdx.z) {
    constexpr unsigned char kNotANumber = 0xff;
    is_begun = true;
    begun = blockIdx;
    std::fill(shared_here.begin(), shared_here.end(), kNotANumber);
    copies_here.clear();
  }
  return shared_here.data();
}

template <bool kIsReadAgain>
void begin_copy(void* to, const void* from, int bytes) {
  copies_here[running_thread].groups.back().push_back({to, from, bytes});
}

inline void end_group() { copies_here[running_thread].groups.emplace_back(); }

template <int kLeft>
void wait_for_groups() {
  auto& groups = copies_here[running_thread].groups;
  while (static_cast<int>(groups.size()) - 1 > kLeft) {
    for (const Copy& copy : groups.front()) {
      const auto begin = static_cast<unsigned char*>(copy.to) - shared_here.data();
      if (begin < 0 || begin + 16 > static_cast<std::ptrdiff_t>(shared_here.size())) std::abort();
      memset(copy.to, 0, 16);
      memcpy(copy.to, copy.from, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

inline void load_matrices(uint32_t (&words)[4], const void* row) {
  struct Four {
    uint32_t words[4];
  };
  const double mine[1] = {static_cast<double>(static_cast<const unsigned char*>(row) - shared_here.data())};
  const Four made = together(mine, [](const auto& shown) {
    Four four;
    for (int i = 0; i < 4; ++i) memcpy(&four.words[i], shared_here.data() + static_cast<int>(shown[8 * i + lane_here / 4][0]) + lane_here % 4 * 4, 4);
    return four;
  });
  memcpy(words, made.words, sizeof made);
}

inline void load_turned_matrices(uint32_t (&words)[4], const void* row) {
  struct Four {
    uint32_t words[4];
  };
  const double mine[1] = {static_cast<double>(static_cast<const unsigned char*>(row) - shared_here.data())};
  const Four made = together(mine, [](const auto& shown) {
    Four four;
    for (int i = 0; i < 4; ++i) {
      uint16_t pair[2];
      for (int k = 0; k < 2; ++k)
        memcpy(&pair[k], shared_here.data() + static_cast<int>(shown[8 * i + lane_here % 4 * 2 + k][0]) + lane_here / 4 * 2, 2);
      memcpy(&four.words[i], pair, 4);
    }
    return four;
  });
  memcpy(words, made.words, sizeof made);
}

inline void wait_for_kernels_before() {}
inline void let_next_kernel_begin() {}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes, bool, cudaStream_t, const Arguments&... arguments) {
  is_begun = false;
  shared_here.resize(shared_bytes);
  ::launch(blocks, dim3(threads), [&] { kernel(Parameters(arguments)...); });
}

}  // namespace yolov12_kernels
