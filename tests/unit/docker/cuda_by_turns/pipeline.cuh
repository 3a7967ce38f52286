// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/pipeline.cuh for g++. A copy is made only when its thread waits for it, and shared memory is full of NaN before: numbers that
// are read too early, or overwritten while others want them, show in the result.
#pragma once

#include "cuda_runtime.h"

namespace yolov12_kernels {

inline unsigned char* shared_begin() { return shared_here.data(); }

template <bool kIsReadAgain>
void begin_copy(void* to, const void* from, int bytes) {
  thread_here().groups.back().push_back({to, from, bytes});
}

inline void end_group() { thread_here().groups.emplace_back(); }

template <int kLeft>
void wait_for_groups() {
  auto& groups = thread_here().groups;
  while (static_cast<int>(groups.size()) - 1 > kLeft) {
    for (const Copy& copy : groups.front()) {
      if (static_cast<unsigned char*>(copy.to) < shared_here.data() || static_cast<unsigned char*>(copy.to) + 16 > shared_here.data() + shared_here.size())
        std::abort();
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
    for (int i = 0; i < 4; ++i) memcpy(&four.words[i], shared_here.data() + static_cast<int>(shown[8 * i + lane() / 4][0]) + lane() % 4 * 4, 4);
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
        memcpy(&pair[k], shared_here.data() + static_cast<int>(shown[8 * i + lane() % 4 * 2 + k][0]) + lane() / 4 * 2, 2);
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
  ::launch(blocks, threads, shared_bytes, [&] { kernel(Parameters(arguments)...); });
}

}  // namespace yolov12_kernels
