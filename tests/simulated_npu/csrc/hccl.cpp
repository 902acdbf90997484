// The collectives between simulated NPUs: gloo's, on aliases of the npu tensors' memory. What torch_npu's
// ProcessGroupHCCL refuses is refused: types and operations of reductions, types at all, gather, recv from anyone.

#include "device.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include <set>
#include <string>

namespace sim {
namespace {

using c10::intrusive_ptr;
using c10d::Work;
using Tensors = std::vector<at::Tensor>;

// gloo's work, which answers with the npu tensors.
class NpuWork final : public Work {
 public:
  NpuWork(intrusive_ptr<Work> inner, Tensors outputs) : inner_(std::move(inner)), outputs_(std::move(outputs)) {}

  bool isCompleted() override {
    return inner_->isCompleted();
  }
  bool isSuccess() const override {
    return inner_->isSuccess();
  }
  std::exception_ptr exception() const override {
    return inner_->exception();
  }
  int sourceRank() const override {
    return inner_->sourceRank();
  }
  Tensors result() override {
    return outputs_;
  }
  void synchronize() override {
    inner_->synchronize();
  }
  bool wait(std::chrono::milliseconds timeout) override {
    return inner_->wait(timeout);
  }
  void abort() override {
    inner_->abort();
  }
  intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto outputs = outputs_;
    return inner_->getFuture()->then(
        [outputs](c10::ivalue::Future& future) {
          future.value();
          return c10::IValue(outputs);
        },
        c10::ListType::create(c10::TensorType::get()));
  }
  uint64_t getSequencenumber() const override {
    return inner_->getSequencenumber();
  }

 private:
  intrusive_ptr<Work> inner_;
  Tensors outputs_;
};

// The end of a bracket of collectives.
class ManyWorks final : public Work {
 public:
  explicit ManyWorks(std::vector<intrusive_ptr<Work>> works) : works_(std::move(works)) {}

  bool isCompleted() override {
    for (const auto& work : works_) {
      if (!work->isCompleted()) {
        return false;
      }
    }
    return true;
  }
  bool isSuccess() const override {
    for (const auto& work : works_) {
      if (!work->isSuccess()) {
        return false;
      }
    }
    return true;
  }
  bool wait(std::chrono::milliseconds timeout) override {
    for (const auto& work : works_) {
      work->wait(timeout);
    }
    return true;
  }
  void synchronize() override {}

 private:
  std::vector<intrusive_ptr<Work>> works_;
};

class ProcessGroupHCCL final : public c10d::Backend {
 public:
  struct Options final : c10d::Backend::Options {
    Options() : c10d::Backend::Options("hccl") {}
  };

  ProcessGroupHCCL(intrusive_ptr<Backend> gloo, int rank, int size, intrusive_ptr<Options> options)
      : Backend(rank, size), gloo_(std::move(gloo)), options_(std::move(options)) {}

  const std::string getBackendName() const override {
    return "hccl";
  }
  intrusive_ptr<Backend::Options> getBackendOptions() override {
    return options_;
  }
  void setTimeout(std::chrono::milliseconds timeout) override {
    options_->timeout = timeout;
    gloo_->setTimeout(timeout);
  }
  bool supportsCoalescing() const override {
    return true;
  }
  void startCoalescing() override {
    TORCH_CHECK(!coalescing_, "hccl: collectives are already being coalesced");
    coalescing_ = true;
  }
  intrusive_ptr<Work> endCoalescing() override {
    TORCH_CHECK(coalescing_, "hccl: nothing is being coalesced");
    coalescing_ = false;
    return c10::make_intrusive<ManyWorks>(std::exchange(coalesced_, {}));
  }
  void setSequenceNumberForGroup() override {
    gloo_->setSequenceNumberForGroup();
  }
  uint64_t getSequenceNumberForGroup() override {
    return gloo_->getSequenceNumberForGroup();
  }
  void abort() override {
    gloo_->abort();
  }
  void shutdown() override {
    gloo_->shutdown();
  }

  intrusive_ptr<Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto memory = on_cpu(tensors);
    return given(gloo_->broadcast(memory, options), tensors);
  }
  intrusive_ptr<Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto memory = on_cpu(tensors);
    check_reduction(tensors, options.reduceOp);
    return given(gloo_->allreduce(memory, options), tensors);
  }
  intrusive_ptr<Work> allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    auto memory = on_cpu(tensors);
    check_reduction(tensors, options.reduceOp);
    return given(gloo_->allreduce_coalesced(memory, options), tensors);
  }
  intrusive_ptr<Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto memory = on_cpu(tensors);
    check_reduction(tensors, options.reduceOp);
    return given(gloo_->reduce(memory, options), tensors);
  }
  intrusive_ptr<Work> allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                const c10d::AllgatherOptions& options) override {
    auto to = on_cpu(outputs);
    auto from = on_cpu(inputs);
    return given(gloo_->allgather(to, from, options), flat(outputs));
  }
  intrusive_ptr<Work> _allgather_base(at::Tensor& output, at::Tensor& input,
                                      const c10d::AllgatherOptions& options) override {
    auto to = on_cpu(output), from = on_cpu(input);
    return given(gloo_->_allgather_base(to, from, options), {output});
  }
  intrusive_ptr<Work> allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                      const c10d::AllgatherOptions& options) override {
    auto to = on_cpu(outputs), from = on_cpu(inputs);
    return given(gloo_->allgather_into_tensor_coalesced(to, from, options), outputs);
  }
  intrusive_ptr<Work> gather(std::vector<Tensors>&, Tensors&, const c10d::GatherOptions&) override {
    TORCH_CHECK(false, "ProcessGroupHCCL does not support gather");
  }
  intrusive_ptr<Work> scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                              const c10d::ScatterOptions& options) override {
    auto to = on_cpu(outputs);
    auto from = on_cpu(inputs);
    return given(gloo_->scatter(to, from, options), outputs);
  }
  intrusive_ptr<Work> reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                     const c10d::ReduceScatterOptions& options) override {
    check_reduction(outputs, options.reduceOp);
    auto to = on_cpu(outputs);
    auto from = on_cpu(inputs);
    return given(gloo_->reduce_scatter(to, from, options), outputs);
  }
  intrusive_ptr<Work> _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                           const c10d::ReduceScatterOptions& options) override {
    check_reduction({output}, options.reduceOp);
    auto to = on_cpu(output), from = on_cpu(input);
    return given(gloo_->_reduce_scatter_base(to, from, options), {output});
  }
  intrusive_ptr<Work> reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                      const c10d::ReduceScatterOptions& options) override {
    check_reduction(outputs, options.reduceOp);
    auto to = on_cpu(outputs), from = on_cpu(inputs);
    return given(gloo_->reduce_scatter_tensor_coalesced(to, from, options), outputs);
  }
  intrusive_ptr<Work> alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_sizes,
                                    std::vector<int64_t>& input_sizes, const c10d::AllToAllOptions& options) override {
    auto to = on_cpu(output), from = on_cpu(input);
    return given(gloo_->alltoall_base(to, from, output_sizes, input_sizes, options), {output});
  }
  intrusive_ptr<Work> alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override {
    auto to = on_cpu(outputs), from = on_cpu(inputs);
    return given(gloo_->alltoall(to, from, options), outputs);
  }
  intrusive_ptr<Work> send(Tensors& tensors, int to, int tag) override {
    auto memory = on_cpu(tensors);
    return given(gloo_->send(memory, to, tag), tensors);
  }
  intrusive_ptr<Work> recv(Tensors& tensors, int from, int tag) override {
    auto memory = on_cpu(tensors);
    return given(gloo_->recv(memory, from, tag), tensors);
  }
  intrusive_ptr<Work> recvAnysource(Tensors&, int) override {
    TORCH_CHECK(false, "ProcessGroupHCCL does not support recv from any source");
  }
  intrusive_ptr<Work> barrier(const c10d::BarrierOptions&) override {
    return given(gloo_->barrier(), {});
  }

 private:
  // torch_npu's checkSupportedDataType and getHcclReduceOp (Ascend/pytorch, ProcessGroupHCCL.cpp): float64 and uint8
  // only on devices later than those of the documented CANN.
  static void check_reduction(const Tensors& tensors, const c10d::ReduceOp& operation) {
    static const std::set<at::ScalarType> types = {at::kChar, at::kShort, at::kInt,     at::kLong,
                                                   at::kHalf, at::kFloat, at::kBFloat16};
    static const std::set<c10d::ReduceOp::RedOpType> operations = {
        c10d::ReduceOp::SUM, c10d::ReduceOp::AVG, c10d::ReduceOp::MIN, c10d::ReduceOp::MAX, c10d::ReduceOp::PRODUCT};
    for (const auto& tensor : tensors) {
      TORCH_CHECK(types.count(tensor.scalar_type()), "HCCL reductions: Unsupported data type ", tensor.scalar_type());
    }
    TORCH_CHECK(operations.count(operation.op_), "Cannot use ReduceOp ", static_cast<int>(operation.op_), " with HCCL");
  }
  static at::Tensor on_cpu(const at::Tensor& tensor) {
    static const std::set<at::ScalarType> types = {at::kByte, at::kChar,  at::kShort,  at::kInt,  at::kLong,
                                                   at::kHalf, at::kFloat, at::kDouble, at::kBool, at::kBFloat16};
    TORCH_CHECK(types.count(tensor.scalar_type()), "Unsupported data type for HCCL process group: ",
                tensor.scalar_type());
    TORCH_CHECK(tensor.device().type() == kNpu, "hccl works on npu tensors only, and got one on ",
                tensor.device().str());
    TORCH_CHECK(tensor.is_contiguous(), "hccl: tensors must be contiguous");
    return Aliases().on_cpu(tensor);
  }
  static Tensors on_cpu(const Tensors& tensors) {
    Tensors aliases;
    for (const auto& tensor : tensors) {
      aliases.push_back(on_cpu(tensor));
    }
    return aliases;
  }
  static std::vector<Tensors> on_cpu(const std::vector<Tensors>& lists) {
    std::vector<Tensors> aliases;
    for (const auto& list : lists) {
      aliases.push_back(on_cpu(list));
    }
    return aliases;
  }
  static Tensors flat(const std::vector<Tensors>& lists) {
    Tensors tensors;
    for (const auto& list : lists) {
      tensors.insert(tensors.end(), list.begin(), list.end());
    }
    return tensors;
  }
  intrusive_ptr<Work> given(intrusive_ptr<Work> inner, const Tensors& outputs) {
    auto work = c10::make_intrusive<NpuWork>(std::move(inner), outputs);
    if (coalescing_) {
      coalesced_.push_back(work);
    }
    return work;
  }

  intrusive_ptr<Backend> gloo_;
  intrusive_ptr<Options> options_;
  bool coalescing_ = false;
  std::vector<intrusive_ptr<Work>> coalesced_;
};

}  // namespace

void bind_collectives(py::module_& module) {
  py::module_::import("torch._C._distributed_c10d");
  using Options = ProcessGroupHCCL::Options;
  auto group = py::class_<ProcessGroupHCCL, c10d::Backend, intrusive_ptr<ProcessGroupHCCL>>(module, "ProcessGroupHCCL");
  py::class_<Options, c10d::Backend::Options, intrusive_ptr<Options>>(group, "Options").def(py::init<>());
  group.def(py::init([](const py::object& store, int rank, int size, const intrusive_ptr<Options>& options) {
              auto gloo = py::module_::import("torch.distributed").attr("ProcessGroupGloo");
              return c10::make_intrusive<ProcessGroupHCCL>(
                  gloo(store, rank, size, options->timeout).cast<intrusive_ptr<c10d::Backend>>(), rank, size, options);
            }),
            py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("options"));
}

}  // namespace sim
