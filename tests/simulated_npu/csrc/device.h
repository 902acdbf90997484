// What the parts of the simulated NPU share. Its memory is the host's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Storage.h>

#include <utility>
#include <vector>

namespace sim {

constexpr c10::DeviceType kNpu = c10::DeviceType::PrivateUse1;

// CPU tensors over the memory of npu tensors, for as long as one operator runs. Tensors that share a storage share
// it as aliases too, so that the CPU's kernels see the same overlaps and views.
class Aliases {
 public:
  // The CPU tensor over an npu tensor's memory. It keeps that memory alive.
  at::Tensor on_cpu(const at::Tensor& npu);
  c10::Storage on_cpu(const c10::Storage& npu);

  // What a CPU kernel gave back, as an npu tensor: the very argument, a view of one, or the owner of new memory.
  at::Tensor on_npu(const at::Tensor& cpu, c10::DeviceIndex device);

  // Takes over what the kernel did to an argument's shape or storage, as in resize_ and set_.
  void write_back(const at::Tensor& npu);

 private:
  struct Shared {
    c10::Storage npu, cpu;
    void* data;
    c10::DispatchKeySet keys;  // of the argument it came with; empty where it came with none
  };
  Shared& share(const c10::Storage& npu, c10::DispatchKeySet keys);
  c10::Storage adopt(const c10::Storage& cpu, c10::DeviceIndex device);

  std::vector<Shared> storages_;
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;  // npu, cpu
};

}  // namespace sim
