// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/batch_norm_act.h for test_batch_norm_on_host.py, which calls it with addresses of arrays.
#include "batch_norm_act.h"

#include <cstdlib>
#include <memory>

using namespace yolov12_kernels;

namespace {

// Aligned to what a load needs.
std::unique_ptr<float, decltype(&std::free)> floats(int64_t count) {
  return {static_cast<float*>(std::aligned_alloc(16, (count + 3) / 4 * 16)), &std::free};
}

}  // namespace

extern "C" {

void statistics_on_host(Shape shape, Rows y, const float* gamma, const float* beta, Running running, float* constants,
                        int multiprocessors) {
  const auto scratch = floats(statistics_scratch(shape, multiprocessors));
  statistics(shape, y, gamma, beta, 1e-3f, running, constants, scratch.get(), multiprocessors, nullptr);
}

void apply_on_host(Shape shape, Rows y, const float* constants, Rows out, bool accumulate) {
  apply(shape, y, constants, out, accumulate, nullptr);
}

void gradient_on_host(Shape shape, Rows y, Rows grad_out, const float* constants, Rows grad_y,
                      float* grad_gamma, float* grad_beta, int multiprocessors) {
  const auto scratch = floats(gradient_scratch(shape, multiprocessors));
  gradient(shape, y, grad_out, constants, grad_y, grad_gamma, grad_beta, scratch.get(), multiprocessors, nullptr);
}
}
