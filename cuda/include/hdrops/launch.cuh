// The one way to launch a kernel: on the device and the current stream of a tensor, with a grid
// that any amount of work fits, and with both checks. A launch cannot forget any of them.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "hdrops/math/common.h"
#include "hdrops/tensor.h"

namespace hdrops {

// Makes the device of `on` current for its lifetime and launches there. Construct it once per
// operator, after the checks and before the first allocation. It never synchronises, so a CUDA
// graph can capture what it launches.
class Launcher {
 public:
  explicit Launcher(const Tensor& on) : device_(on.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    // This library links a runtime of its own, whose current device torch's guard does not set.
    STD_CUDA_CHECK(cudaSetDevice(device_));
    int count = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_));
    multiprocessors_ = count;
  }
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  int64_t multiprocessors() const { return multiprocessors_; }

  // Launches kernel(arguments...) with `units` blocks of `threads` threads and `shared_bytes` of
  // dynamic shared memory (at most 48 KB with the static part); no units, no launch. A grid holds
  // 2^31 - 1 blocks: kernels take their units in a loop over blockIdx.x, blockIdx.x + gridDim.x and
  // so on.
  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...),
                  int64_t units,
                  int32_t threads,
                  int64_t shared_bytes,
                  Arguments&&... arguments) const {
    if (units <= 0) return;
    constexpr int64_t most_blocks = (int64_t{1} << 31) - 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(std::min(units, most_blocks)));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream_;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceIndex device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
  int64_t multiprocessors_ = 0;
};

using math::ceil_div;

// The dynamic shared memory of a block, aligned to 16 bytes.
template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ double2 hdrops_dynamic_shared[];
  return reinterpret_cast<T*>(hdrops_dynamic_shared);
}

}  // namespace hdrops
