// SPDX-License-Identifier: AGPL-3.0-or-later
// Copies into shared memory that run beside the arithmetic, loads from there as tensor cores want them, and a launch that may begin early.
// From sm_80 on; on Turing these do nothing, and the ops that need them refuse it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace yolov12_kernels {

extern __shared__ __align__(128) unsigned char shared_memory[];

__device__ inline unsigned char* shared_begin() { return shared_memory; }

// 16 bytes, of which the first `bytes` come from `from` and the rest are zero; nothing is read where that is none.
// `kIsReadAgain`: kept in the first-level cache too, for numbers that other copies of the block want soon.
template <bool kIsReadAgain>
__device__ inline void begin_copy(void* to, const void* from, int bytes) {
#if __CUDA_ARCH__ >= 800
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kIsReadAgain)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
#endif
}

// Closes the group of this thread's copies since the last call.
__device__ inline void end_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all of this thread's groups but the last `kLeft` are there.
template <int kLeft>
__device__ inline void wait_for_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

// Four matrices of 8 rows of 16 bytes. Threads 8 i to 8 i + 7 tell where the rows of matrix i lie; thread 4 g + t gets word t of row g of each.
__device__ inline void load_matrices(uint32_t (&words)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
#endif
}

// The same, each matrix turned round: thread 4 g + t gets the numbers of column g in rows 2 t and 2 t + 1.
__device__ inline void load_turned_matrices(uint32_t (&words)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
#endif
}

// Until the kernels before this one on the stream are done, where this one began early.
__device__ inline void wait_for_kernels_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the next kernel may begin early. Only after `wait_for_kernels_before`: so a kernel never runs beside one that is two before it.
__device__ inline void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

constexpr int kSharedBytesOfAnyKernel = 48 * 1024;  // more must be asked for

// `kernel(arguments...)`; `early` as the kernel's own calls above allow.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes, bool early, cudaStream_t stream,
            const Arguments&... arguments) {
  // Known by each device of its own, so it is said each time.
  if (shared_bytes > kSharedBytesOfAnyKernel)
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace yolov12_kernels
