// A device for torch's PrivateUse1 key with host memory behind it: an allocator that counts bytes, a device guard,
// generators, and one fallback that lets the CPU's kernels work on aliases of the device's tensors. What a real
// accelerator refuses, above all tensors of several devices in one operator, is refused here too.

#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/copy_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>

namespace sim {
namespace {

constexpr int kMost = 16;

// ---------------------------------------------------------------------------------------------------- devices

int count_devices() {
  const char* visible = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (visible == nullptr) {
    return 2;
  }
  int count = 0;
  for (const char* at = visible; *at != '\0'; ++at) {
    count += *at >= '0' && *at <= '9' && (at == visible || at[-1] == ',');
  }
  return count < kMost ? count : kMost;
}

c10::DeviceIndex device_count() noexcept {
  static const int count = count_devices();
  return static_cast<c10::DeviceIndex>(count);
}

thread_local c10::DeviceIndex current_device = 0;
thread_local c10::StreamId current_streams[kMost] = {};

void check_device(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < device_count(), "npu:", int(index), " does not exist: there are ",
              int(device_count()), " simulated devices (ASCEND_RT_VISIBLE_DEVICES)");
}

c10::DeviceIndex index_of(c10::Device device) {
  return device.has_index() ? device.index() : current_device;
}

// ----------------------------------------------------------------------------------------------------- memory

struct Account {
  std::atomic<int64_t> current{0}, peak{0};
};
Account accounts[kMost];

int64_t total_bytes() {
  static const int64_t bytes = [] {
    const char* given = std::getenv("SIMULATED_NPU_BYTES");
    return given != nullptr ? std::strtoll(given, nullptr, 10) : int64_t(64) << 30;
  }();
  return bytes;
}

// Memory on a device: fresh, or the storage that a CPU kernel made.
struct Held {
  c10::DataPtr fresh;
  c10::Storage adopted;
  int64_t bytes;
  c10::DeviceIndex device;

  ~Held() {
    accounts[device].current -= bytes;
  }
};

// Books bytes on a device's account, while there is room.
void book(size_t bytes, c10::DeviceIndex device) {
  auto& account = accounts[device];
  const int64_t now = account.current += int64_t(bytes);
  if (now > total_bytes()) {
    account.current -= int64_t(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", bytes, " bytes on npu:",
                     int(device), " of ", total_bytes(), ", of which ", now - int64_t(bytes), " are in use");
  }
  int64_t peak = account.peak;
  while (now > peak && !account.peak.compare_exchange_weak(peak, now)) {
  }
}

// Memory whose bytes are booked, as the device's.
c10::DataPtr hold(void* data, c10::DataPtr fresh, c10::Storage adopted, size_t bytes, c10::DeviceIndex device) {
  auto* held = new Held{std::move(fresh), std::move(adopted), int64_t(bytes), device};
  return {data, held, [](void* context) { delete static_cast<Held*>(context); }, c10::Device(kNpu, device)};
}

struct NpuAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const auto device = current_device;
    if (bytes == 0) {
      return {nullptr, c10::Device(kNpu, device)};
    }
    book(bytes, device);
    c10::DataPtr memory;
    try {
      memory = c10::GetCPUAllocator()->allocate(bytes);
    } catch (...) {
      accounts[device].current -= int64_t(bytes);
      throw;
    }
    void* data = memory.get();
    return hold(data, std::move(memory), {}, bytes, device);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

NpuAllocator allocator;
REGISTER_ALLOCATOR(kNpu, &allocator);

void resize_storage(const c10::Storage& storage, size_t bytes) {
  auto* impl = storage.unsafeGetStorageImpl();
  TORCH_CHECK(impl->resizable(), "this npu storage cannot be resized");
  c10::DataPtr fresh(nullptr, storage.device());
  if (bytes != 0) {
    c10::DeviceGuard guard(storage.device());
    fresh = allocator.allocate(bytes);
    if (storage.data() != nullptr) {
      std::memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
    }
  }
  impl->set_data_ptr_noswap(std::move(fresh));
  impl->set_nbytes(bytes);
}

// ------------------------------------------------------------------------------------------------- generators

// A Mersenne Twister like the CPU's, with a state of its own.
struct NpuGenerator final : c10::GeneratorImpl {
  explicit NpuGenerator(c10::DeviceIndex index, at::Generator twister = at::detail::createCPUGenerator())
      : GeneratorImpl(c10::Device(kNpu, index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        twister(std::move(twister)) {}

  void set_current_seed(uint64_t seed) override {
    twister.set_current_seed(seed);
  }
  void set_offset(uint64_t offset) override {
    twister.set_offset(offset);
  }
  uint64_t get_offset() const override {
    return twister.get_offset();
  }
  uint64_t current_seed() const override {
    return twister.current_seed();
  }
  uint64_t seed() override {
    return twister.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    twister.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return twister.unsafeGetGeneratorImpl()->get_state();
  }

  at::Generator twister;

 private:
  NpuGenerator* clone_impl() const override {
    return new NpuGenerator(device_.index(), twister.clone());
  }
};

const at::Generator& default_generator(c10::DeviceIndex index) {
  static std::deque<at::Generator> generators = [] {
    std::deque<at::Generator> made;
    for (c10::DeviceIndex i = 0; i < device_count(); ++i) {
      made.push_back(at::make_generator<NpuGenerator>(i));
    }
    return made;
  }();
  const auto wanted = index < 0 ? current_device : index;
  check_device(wanted);
  return generators[wanted];
}

// ------------------------------------------------------------------------------------- guard, streams, hooks

using Clock = std::chrono::steady_clock;

// Work is done when it is asked for, so streams are mere names, and an event is the time of its recording.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kNpu;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override {
    return c10::Device(kNpu, current_device);
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.type() == kNpu);
    if (device.has_index()) {
      check_device(device.index());
      current_device = device.index();
    }
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) {
      current_device = device.index();
    }
  }
  c10::Stream getStream(c10::Device device) const override {
    const auto index = index_of(device);
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(kNpu, index), current_streams[index]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(kNpu, index_of(device)));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<c10::StreamId> last{0};
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(kNpu, index_of(device)), ++last);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_streams[stream.device_index()] = stream.id();
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return device_count();
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<Clock::time_point*>(event);
  }
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) {
      *event = new Clock::time_point();
    }
    *static_cast<Clock::time_point*>(*event) = Clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  void synchronizeEvent(void*) const override {}
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  double elapsedTime(void* start, void* end, c10::DeviceIndex) const override {
    const auto span = *static_cast<Clock::time_point*>(end) - *static_cast<Clock::time_point*>(start);
    return std::chrono::duration<double, std::milli>(span).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return device_count() > 0;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return device_count();
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    check_device(index);
    current_device = index;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current_device;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return maybeExchangeDevice(index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    const auto before = current_device;
    if (index >= 0) {
      setCurrentDevice(index);
    }
    return before;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<NpuGenerator>(index < 0 ? current_device : index);
  }
  at::Device getDeviceFromPtr(void*) const override {
    return c10::Device(kNpu, current_device);
  }
  at::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetCPUAllocator();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    resize_storage(storage, bytes);
  }
};

}  // namespace

// ---------------------------------------------------------------------------------------------------- aliases

namespace {

c10::DispatchKeySet lazy_bits(const at::Tensor& tensor) {
  return tensor.key_set() & c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
}

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.strides() == b.strides() && a.storage_offset() == b.storage_offset();
}

void copy_layout(const at::Tensor& from, const at::Tensor& to) {
  to.unsafeGetTensorImpl()->set_sizes_and_strides(from.sizes(), from.strides(), from.storage_offset());
}

}  // namespace

Aliases::Shared& Aliases::share(const c10::Storage& npu, c10::DispatchKeySet keys) {
  for (auto& shared : storages_) {
    if (shared.npu.unsafeGetStorageImpl() == npu.unsafeGetStorageImpl()) {
      return shared;
    }
  }
  auto* impl = npu.unsafeGetStorageImpl();
  void* data = impl->mutable_data();
  auto* keeper = new c10::Storage(npu);
  c10::DataPtr memory(data, keeper, [](void* context) { delete static_cast<c10::Storage*>(context); },
                      c10::Device(c10::kCPU));
  c10::Storage cpu(c10::Storage::use_byte_size_t(), npu.nbytes(), std::move(memory), c10::GetCPUAllocator(),
                   impl->resizable());
  storages_.push_back({npu, std::move(cpu), data, keys});
  return storages_.back();
}

c10::Storage Aliases::on_cpu(const c10::Storage& npu) {
  return npu.device_type() == kNpu ? share(npu, {}).cpu : npu;
}

at::Tensor Aliases::on_cpu(const at::Tensor& npu) {
  if (!npu.defined() || npu.device().type() != kNpu) {
    return npu;
  }
  for (const auto& [original, alias] : tensors_) {
    if (original.is_same(npu)) {
      return alias;
    }
  }
  auto cpu = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(share(npu.storage(), npu.key_set()).cpu), c10::DispatchKeySet(c10::DispatchKey::CPU) | lazy_bits(npu),
      npu.dtype());
  copy_layout(npu, cpu);
  if (npu.unsafeGetTensorImpl()->is_wrapped_number()) {
    cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
  }
  tensors_.emplace_back(npu, cpu);
  return cpu;
}

c10::Storage Aliases::adopt(const c10::Storage& cpu, c10::DeviceIndex device) {
  for (const auto& shared : storages_) {
    if (shared.cpu.unsafeGetStorageImpl() == cpu.unsafeGetStorageImpl()) {
      return shared.npu;
    }
  }
  void* data = cpu.unsafeGetStorageImpl()->mutable_data();
  book(cpu.nbytes(), device);
  auto memory = cpu.nbytes() == 0 ? c10::DataPtr(nullptr, c10::Device(kNpu, device))
                                  : hold(data, {}, cpu, cpu.nbytes(), device);
  c10::Storage npu(c10::Storage::use_byte_size_t(), cpu.nbytes(), std::move(memory), &allocator, true);
  storages_.push_back({npu, cpu, data, {}});
  return npu;
}

at::Tensor Aliases::on_npu(const at::Tensor& cpu, c10::DeviceIndex device) {
  if (!cpu.defined() || cpu.device().type() != c10::kCPU) {
    return cpu;
  }
  for (const auto& [original, alias] : tensors_) {
    if (alias.is_same(cpu)) {
      return original;
    }
  }
  TORCH_CHECK(cpu.layout() == c10::kStrided, "the simulated npu has strided tensors only");
  at::Tensor npu;
  for (const auto& shared : storages_) {
    if (!shared.keys.empty() && shared.cpu.unsafeGetStorageImpl() == cpu.storage().unsafeGetStorageImpl()) {
      const auto without = c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
      npu = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(shared.npu),
                                                     (shared.keys - without) | lazy_bits(cpu), cpu.dtype());
      break;
    }
  }
  if (!npu.defined()) {
    npu = at::detail::make_tensor<c10::TensorImpl>(adopt(cpu.storage(), device),
                                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1) | lazy_bits(cpu),
                                                   cpu.dtype());
  }
  copy_layout(cpu, npu);
  tensors_.emplace_back(npu, cpu);
  return npu;
}

void Aliases::write_back(const at::Tensor& npu) {
  for (const auto& [original, alias] : tensors_) {
    if (!original.is_same(npu)) {
      continue;
    }
    const auto device = npu.device().index();
    const c10::Storage now = alias.storage();
    Shared* before = nullptr;
    for (auto& shared : storages_) {
      if (shared.npu.unsafeGetStorageImpl() == npu.storage().unsafeGetStorageImpl()) {
        before = &shared;
      }
    }
    if (now.unsafeGetStorageImpl() != before->cpu.unsafeGetStorageImpl()) {
      npu.unsafeGetTensorImpl()->set_storage_keep_dtype(adopt(now, device));  // set_
    } else if (now.data() != before->data || now.nbytes() != npu.storage().nbytes()) {
      // resize_: the kernel gave the alias other memory, which becomes the npu storage's.
      auto* impl = npu.storage().unsafeGetStorageImpl();
      const auto bytes = now.nbytes();
      book(bytes, device);
      void* data = now.unsafeGetStorageImpl()->mutable_data();
      c10::DataPtr fresh = now.unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(data, c10::Device(c10::kCPU)));
      before->data = data;
      impl->set_data_ptr_noswap(bytes == 0 ? c10::DataPtr(nullptr, c10::Device(kNpu, device))
                                           : hold(data, std::move(fresh), {}, bytes, device));
      impl->set_nbytes(bytes);
    }
    if (!same_layout(npu, alias)) {
      copy_layout(alias, npu);
    }
    return;
  }
}

// --------------------------------------------------------------------------------------------------- operators

namespace {

using c10::IValue;

// One call of an operator on npu tensors, by the CPU's kernel.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op), schema_(op.schema()), name_(schema_.name()) {}

  void run(torch::jit::Stack* stack) {
    const auto count = schema_.arguments().size();
    const auto first = stack->size() - count;
    for (size_t i = 0; i < count; ++i) {
      each_tensor((*stack)[first + i], [&](const at::Tensor& tensor) { find_device(tensor, i); });
      if ((*stack)[first + i].isDevice() && device_ < 0 && (*stack)[first + i].toDevice().type() == kNpu) {
        device_ = index_of((*stack)[first + i].toDevice());
      }
    }
    if (device_ < 0) {
      device_ = current_device;
    }
    bool takes_generator = false;
    std::vector<at::Tensor> written;
    for (size_t i = 0; i < count; ++i) {
      const auto& argument = schema_.arguments()[i];
      auto& value = (*stack)[first + i];
      each_tensor(value, [&](const at::Tensor& tensor) {
        check(tensor, i);
        if (writes(i)) {
          written.push_back(tensor);
        }
      });
      if (value.isGenerator()) {
        value = twister(value.toGenerator());
        takes_generator = true;
      } else if (value.isNone() && argument.name() == "generator") {
        value = twister(default_generator(device_));
        takes_generator = true;
      } else if (value.isDevice()) {
        value = c10::Device(c10::kCPU);
      } else if (value.isStorage()) {
        value = aliases_.on_cpu(value.toStorage());
      } else {
        value = mapped(value, [&](const at::Tensor& tensor) { return aliases_.on_cpu(tensor); });
      }
    }
    compute(stack, !takes_generator && op_.hasTag(at::Tag::nondeterministic_seeded));
    for (const auto& tensor : written) {
      if (tensor.defined() && tensor.device().type() == kNpu) {
        aliases_.write_back(tensor);
      }
    }
    const auto results = schema_.returns().size();
    for (size_t i = stack->size() - results; i < stack->size(); ++i) {
      (*stack)[i] = mapped((*stack)[i], [&](const at::Tensor& tensor) { return aliases_.on_npu(tensor, device_); });
    }
  }

 private:
  template <typename Visit>
  static void each_tensor(const IValue& value, const Visit& visit) {
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        visit(tensor);
      }
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        if (tensor.has_value()) {
          visit(*tensor);
        }
      }
    }
  }

  template <typename Change>
  static IValue mapped(const IValue& value, const Change& change) {
    if (value.isTensor()) {
      return change(value.toTensor());
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        list.push_back(change(tensor));
      }
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor.has_value() ? std::optional<at::Tensor>(change(*tensor)) : std::nullopt);
      }
      return list;
    }
    return value;
  }

  bool writes(size_t argument) const {
    const auto* alias = schema_.arguments()[argument].alias_info();
    return alias != nullptr && alias->isWrite();
  }

  bool gives_view() const {
    return !schema_.returns().empty() && schema_.returns()[0].alias_info() != nullptr &&
           !schema_.returns()[0].alias_info()->isWrite();
  }

  void find_device(const at::Tensor& tensor, size_t argument) {
    if (!tensor.defined() || tensor.device().type() != kNpu) {
      return;
    }
    const auto index = tensor.device().index();
    if (device_ >= 0 && has_tensor_ && index != device_) {
      refuse(tensor, argument);
    }
    device_ = index;
    has_tensor_ = true;
  }

  // Whether this tensor may take part: it is on the call's device, or one of the CPU tensors that CUDA takes as well.
  void check(const at::Tensor& tensor, size_t argument) const {
    if (!tensor.defined()) {
      return;
    }
    if (tensor.device().type() == kNpu) {
      check_memory(tensor);
      return;
    }
    const bool indexing = name_ == "aten::index" || name_ == "aten::index_put" || name_ == "aten::index_put_" ||
                          name_ == "aten::_index_put_impl_" || name_ == "aten::_unsafe_index" ||
                          name_ == "aten::_unsafe_index_put";
    const bool takes_scalars = op_.hasTag(at::Tag::pointwise) || indexing || name_.rfind("aten::_foreach_", 0) == 0 ||
                               name_.rfind("aten::_fused_adam", 0) == 0 || name_.rfind("aten::index_fill", 0) == 0;
    const bool scalar = tensor.dim() == 0 && takes_scalars && !writes(argument);
    const bool index = indexing && schema_.arguments()[argument].name() == "indices";
    if (has_tensor_ && !(tensor.device().is_cpu() && (scalar || index))) {
      refuse(tensor, argument);
    }
  }

  [[noreturn]] void refuse(const at::Tensor& tensor, size_t argument) const {
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, npu:",
                int(device_), " and ", tensor.device().str(), "! (when checking argument ",
                schema_.arguments()[argument].name(), " of ", op_.operator_name(), ")");
  }

  // A tensor whose storage was resized to nothing would be read from address 0.
  void check_memory(const at::Tensor& tensor) const {
    if (tensor.numel() == 0 || gives_view() || name_ == "aten::resize_" || name_ == "aten::is_set_to" ||
        name_.rfind("aten::set_", 0) == 0) {
      return;
    }
    const auto needed = at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.dtype().itemsize(),
                                                         tensor.storage_offset());
    TORCH_CHECK(needed <= tensor.storage().nbytes(), op_.operator_name(), ": a tensor of shape ", tensor.sizes(),
                " reaches beyond its npu storage of ", tensor.storage().nbytes(), " bytes");
  }

  at::Generator twister(const at::Generator& generator) const {
    TORCH_CHECK(generator.device().type() == kNpu, "Expected a 'npu' device type for generator but found '",
                generator.device().str(), "' in ", op_.operator_name());
    return static_cast<NpuGenerator*>(generator.unsafeGetGeneratorImpl())->twister;
  }

  // Runs the CPU's kernel. One that is random without saying whose numbers it takes gets the device's.
  void compute(torch::jit::Stack* stack, bool lend_generator) const {
    at::AutoDispatchBelowADInplaceOrView below;
    if (!lend_generator) {
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
      return;
    }
    auto* host = at::detail::getDefaultCPUGenerator().unsafeGetGeneratorImpl();
    auto* mine = default_generator(device_).unsafeGetGeneratorImpl();
    const auto kept = host->get_state();
    host->set_state(*mine->get_state());
    struct Back {
      c10::GeneratorImpl *host, *mine;
      c10::intrusive_ptr<c10::TensorImpl> kept;
      ~Back() {
        mine->set_state(*host->get_state());
        host->set_state(*kept);
      }
    } back{host, mine, kept};
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  const std::string& name_;
  c10::DeviceIndex device_ = -1;
  bool has_tensor_ = false;
  Aliases aliases_;
};

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call(op).run(stack);
}

void check_options(std::optional<c10::Layout> layout, std::optional<bool> pin_memory) {
  TORCH_CHECK(!layout.has_value() || *layout == c10::kStrided, "the simulated npu has strided tensors only");
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
}

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> layout,
                 std::optional<c10::Device> device, std::optional<bool> pin_memory,
                 std::optional<c10::MemoryFormat> format) {
  check_options(layout, pin_memory);
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout> layout, std::optional<c10::Device> device,
                         std::optional<bool> pin_memory) {
  check_options(layout, pin_memory);
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool) {
  at::AutoDispatchBelowADInplaceOrView below;
  Aliases aliases;
  const auto from = aliases.on_cpu(self);
  auto to = aliases.on_cpu(dst);
  TORCH_CHECK(from.device().is_cpu() && to.device().is_cpu(), "cannot copy from ", self.device().str(), " to ",
              dst.device().str());
  at::native::copy_(to, from, false);
  return dst;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

bool has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  const auto dense = [](const at::Tensor& tensor) {
    return tensor.layout() == c10::kStrided && (tensor.device().is_cpu() || tensor.device().type() == kNpu);
  };
  return dense(self) && dense(from);
}

void record_stream(at::Tensor&, c10::Stream) {}

// Which attention kernel: the one that the CPU would take, so that results are the CPU's to the bit.
int64_t attention_kernel(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                         const std::optional<at::Tensor>& mask, double dropout, bool causal,
                         std::optional<double> scale, bool grouped) {
  Aliases aliases;
  const auto on_cpu = [&](const at::Tensor& tensor) {
    return aliases.on_cpu(tensor).set_requires_grad(at::GradMode::is_enabled() && tensor.requires_grad());
  };
  const auto cpu_mask = mask.has_value() ? std::optional<at::Tensor>(on_cpu(*mask)) : std::nullopt;
  return at::_fused_sdp_choice(on_cpu(query), on_cpu(key), on_cpu(value), cpu_mask, dropout, causal, scale, grouped);
}

// As torch_npu's: Ascend's devices have no float64, and a cast to it on the device gives float32.
at::Tensor to_copy(const at::Tensor& self, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                   std::optional<at::Device> device, std::optional<bool> pin_memory, bool non_blocking,
                   std::optional<at::MemoryFormat> memory_format) {
  if (dtype == at::kDouble && self.scalar_type() != at::kDouble && !layout.has_value() && !device.has_value()) {
    dtype = at::kFloat;
  }
  return at::native::_to_copy(self, dtype, layout, device, pin_memory, non_blocking, memory_format);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_has_compatible_shallow_copy_type", has_compatible_shallow_copy_type);
  library.impl("record_stream", record_stream);
  library.impl("_to_copy", to_copy);
  // torch would take these apart into operators, whose sum is rounded otherwise than the CPU's kernels.
  for (const char* name : {"native_layer_norm", "silu_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  }
}

}  // namespace
}  // namespace sim

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &sim::attention_kernel)
}  // namespace at::native

namespace sim {

void bind_collectives(py::module_& module);

}  // namespace sim

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace sim;
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  module.def("device_count", [] { return int(device_count()); });
  module.def("current_device", [] { return int(current_device); });
  module.def("exchange_device", [](int index) { return int(hooks.maybeExchangeDevice(c10::DeviceIndex(index))); });
  module.def("total_bytes", &total_bytes);
  module.def("allocated", [](int index) { return accounts[index].current.load(); });
  module.def("peak", [](int index) { return accounts[index].peak.load(); });
  module.def("reset_peak", [](int index) { accounts[index].peak = accounts[index].current.load(); });
  module.def("default_generator", [](int index) {
    return py::reinterpret_steal<py::object>(
        THPGenerator_initDefaultGenerator(default_generator(c10::DeviceIndex(index))));
  });
  bind_collectives(module);
}
