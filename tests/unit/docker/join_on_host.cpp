// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/join.h for test_join_on_host.py, which calls it with addresses of tensors.
#include "join.h"

using namespace yolov12_kernels;

extern "C" {

// Sources by address, stride and flag; ranges by channels and number of sources.
void join_on_host(const int64_t* addresses, const int64_t* strides, const int64_t* doubled, int sources, const int64_t* channels,
                  const int64_t* terms, int ranges, int images, int height, int width, bool is_float, void* out) {
  Join plan{};
  plan.sources_count = sources;
  plan.ranges_count = ranges;
  plan.images = images;
  plan.height = height;
  plan.width = width;
  plan.type = is_float ? Type::kFloat : Type::kBFloat16;
  for (int i = 0; i < sources; ++i) plan.sources[i] = {{reinterpret_cast<void*>(addresses[i]), strides[i]}, doubled[i] != 0};
  int begin = 0, first = 0;
  for (int i = 0; i < ranges; ++i) {
    const int end = begin + static_cast<int>(channels[i]) / elements_per_load(plan.type);
    plan.ranges[i] = {begin, end, first, static_cast<int>(terms[i])};
    begin = end;
    first += static_cast<int>(terms[i]);
  }
  join(plan, out, nullptr);
}

void halve_on_host(int64_t address, int64_t stride, int images, int height, int width, int channels, bool is_float, void* out) {
  halve({reinterpret_cast<void*>(address), stride}, out, images, height, width, channels, is_float ? Type::kFloat : Type::kBFloat16, nullptr);
}
}
