// SPDX-License-Identifier: AGPL-3.0-or-later
// What the ops ask of a device. Asked once for each, since every call needs it.
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>

namespace yolov12_kernels {

// An attribute that is no device's 0.
template <cudaDeviceAttr kAttribute>
int attribute_of(int device) {
  constexpr int kMostDevices = 64;
  static std::array<std::atomic<int>, kMostDevices> known{};
  TORCH_CHECK(device >= 0 && device < kMostDevices, "yolov12_kernels: device ", device, " is not one of the first ", kMostDevices);
  int value = known[device];
  if (value == 0) {
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, kAttribute, device));
    known[device] = value;
  }
  return value;
}

// Of the current device.
inline int multiprocessors() { return attribute_of<cudaDevAttrMultiProcessorCount>(c10::cuda::current_device()); }

// Major number of a device's compute capability.
inline int capability(int device) { return attribute_of<cudaDevAttrComputeCapabilityMajor>(device); }

}  // namespace yolov12_kernels
