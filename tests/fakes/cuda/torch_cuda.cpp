// CUDA tensors for a torch that was built without CUDA: memory of the fake runtime, which no
// processor may touch, kept and given again as torch's allocator does; views as torch makes them.
// Fills with one byte and copies within a device are queued and not waited for, as real operators
// are; all others wait, and work on copies in host memory.
#include <ATen/EmptyTensor.h>
#include <ATen/ATen.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <tuple>
#include <vector>

extern "C" {
int cudaGetDeviceCount(int *);
int cudaSetDevice(int);
int cudaGetDevice(int *);
int cudaMalloc(void **, size_t);
int cudaFree(void *);
int cudaMemcpyAsync(void *, const void *, size_t, int, void *);
int cudaMemsetAsync(void *, int, size_t, void *);
int cudaStreamSynchronize(void *);
int cudaDeviceSynchronize();
int cudaGetLastError();
const char *cudaGetErrorString(int);
}

namespace {

using at::Tensor;

// As torch's own check does, it also finds what somebody else has left behind in this thread.
void check(int code) {
  int left = cudaGetLastError();
  int found = code ? code : left;
  if (found)
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, found,
                                std::string("CUDA error: ") + cudaGetErrorString(found));
}

thread_local void *streams[8];  // the current stream of each device, NULL for the default one

c10::Device here() {
  int device = 0;
  check(cudaGetDevice(&device));
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(device)};
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device d) const override {
    c10::Device before = here();
    if (before != d) setDevice(d);
    return before;
  }
  c10::Device getDevice() const override { return here(); }
  void setDevice(c10::Device d) const override { check(cudaSetDevice(d.index())); }
  void uncheckedSetDevice(c10::Device d) const noexcept override { cudaSetDevice(d.index()); }
  c10::Stream getStream(c10::Device d) const override {
    return c10::Stream(c10::Stream::DEFAULT, d);
  }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override {
    int n = 0;
    cudaGetDeviceCount(&n);
    return static_cast<c10::DeviceIndex>(n);
  }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// What a block may be given for again: work queued on the same stream comes before what is new.
using Key = std::tuple<int, void *, size_t>;  // device, stream, bytes
struct Block {
  void *data;
  Key key;
};
std::mutex kept_lock;
std::map<Key, std::vector<void *>> kept;

void empty_cache() {
  std::lock_guard<std::mutex> lock(kept_lock);
  for (auto &[key, blocks] : kept) {
    c10::DeviceGuard guard(c10::Device(c10::kCUDA, std::get<0>(key)));
    cudaDeviceSynchronize();
    for (void *data : blocks) cudaFree(data);
  }
  kept.clear();
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t nbytes) override {
    c10::Device device = here();
    if (nbytes == 0) return {nullptr, nullptr, &give_back, device};
    nbytes = (nbytes + 511) / 512 * 512;
    auto *block = new Block{nullptr, {device.index(), streams[device.index()], nbytes}};
    {
      std::lock_guard<std::mutex> lock(kept_lock);
      auto &blocks = kept[block->key];
      if (!blocks.empty()) {
        block->data = blocks.back();
        blocks.pop_back();
      }
    }
    int code = block->data ? 0 : cudaMalloc(&block->data, nbytes);
    if (code == 2) {
      cudaGetLastError();
      empty_cache();
      code = cudaMalloc(&block->data, nbytes);
    }
    if (code) delete block;
    if (code == 2) {
      cudaGetLastError();
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", nbytes);
    }
    check(code);
    return {block->data, block, &give_back, device};
  }
  static void give_back(void *given) {
    auto *block = static_cast<Block *>(given);
    if (!block) return;
    std::lock_guard<std::mutex> lock(kept_lock);
    kept[block->key].push_back(block->data);
    delete block;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *to, const void *from, size_t nbytes) const override {
    check(cudaMemcpyAsync(to, from, nbytes, 3, streams[here().index()]));
  }
};
Allocator allocator;

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device> device, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(device.has_value() && device->has_index() ? *device : here());
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(device.has_value() && device->has_index() ? *device : here());
  return at::detail::empty_strided_generic(size, stride, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

// What a tensor reaches of its storage, in bytes from its start.
size_t reach(const Tensor &t) {
  return t.numel() ? at::detail::computeStorageNbytes(t.sizes(), t.strides(), t.itemsize()) : 0;
}

void move(void *to, const void *from, size_t nbytes, int kind, at::Device device) {
  if (nbytes == 0) return;
  c10::DeviceGuard guard(device);
  void *stream = streams[device.index()];
  check(cudaMemcpyAsync(to, from, nbytes, kind, stream));
  check(cudaStreamSynchronize(stream));
}

// The same sizes and strides in host memory, with the bytes that are there.
Tensor fetched(const Tensor &t) {
  Tensor host = at::empty_strided(t.sizes(), t.strides(), t.options().device(at::kCPU));
  move(host.mutable_data_ptr(), t.const_data_ptr(), reach(t), 2, t.device());
  return host;
}

Tensor &copy_(Tensor &self, const Tensor &src, bool) {
  if (self.is_cuda() && src.is_cuda() && self.device() == src.device() &&
      self.dtype() == src.dtype() && self.sizes() == src.sizes() && self.is_contiguous() &&
      src.is_contiguous()) {
    c10::DeviceGuard guard(self.device());
    if (self.nbytes())
      check(cudaMemcpyAsync(self.mutable_data_ptr(), src.const_data_ptr(), self.nbytes(), 3,
                            streams[self.device().index()]));
    return self;
  }
  Tensor from = src.is_cuda() ? fetched(src) : src;
  if (!self.is_cuda()) {
    self.copy_(from);
    return self;
  }
  if (self.numel() == 0) return self;
  Tensor host = self.is_contiguous()
                    ? at::empty(self.sizes(), self.options().device(at::kCPU))
                    : fetched(self);
  host.copy_(from);
  move(self.mutable_data_ptr(), host.const_data_ptr(), reach(host), 1, self.device());
  return self;
}

// How results come back from operators that worked in host memory.
Tensor copy_from_and_resize(const Tensor &self, const Tensor &target) {
  Tensor to = target;
  if (to.sizes() != self.sizes()) {
    Tensor fresh = at::empty(self.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
    to.unsafeGetTensorImpl()->set_storage_offset(0);
    to.unsafeGetTensorImpl()->set_sizes_contiguous(self.sizes());
  }
  return copy_(to, self, false);
}

Tensor &zero_(Tensor &self) {
  if (!self.is_contiguous()) return copy_(self, at::zeros_like(fetched(self)), false);
  c10::DeviceGuard guard(self.device());
  if (self.nbytes())
    check(cudaMemsetAsync(self.mutable_data_ptr(), 0, self.nbytes(),
                          streams[self.device().index()]));
  return self;
}

Tensor &fill_(Tensor &self, const at::Scalar &value) {
  if (self.itemsize() != 1 || !self.is_contiguous())
    return copy_(self, at::full_like(fetched(self), value), false);
  c10::DeviceGuard guard(self.device());
  if (self.nbytes())
    check(cudaMemsetAsync(self.mutable_data_ptr(), value.to<int>() & 0xff, self.nbytes(),
                          streams[self.device().index()]));
  return self;
}

Tensor &set_offset(Tensor &self, at::Storage source, int64_t offset, at::IntArrayRef size,
                   at::IntArrayRef stride) {
  auto *impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  if (stride.empty())
    impl->set_sizes_contiguous(size);
  else
    impl->set_sizes_and_strides(size, stride);
  return self;
}

Tensor &set_storage(Tensor &self, at::Storage source) {
  int64_t n = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_offset(self, std::move(source), 0, {n}, {});
}

at::Scalar local_scalar(const Tensor &self) { return fetched(self).item(); }

Tensor as_strided(const Tensor &self, at::IntArrayRef size, at::IntArrayRef stride,
                  std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

Tensor view(const Tensor &self, at::IntArrayRef size) { return at::native::view(self, size); }

void record_stream(Tensor &, at::Stream) {}

void by_host(const c10::OperatorHandle &op, torch::jit::Stack *stack) {
  at::native::cpu_fallback(op, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("zero_", zero_);
  m.impl("fill_.Scalar", fill_);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_offset);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("record_stream", record_stream);
}
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_host>()); }

extern "C" __attribute__((visibility("default"))) void torch_cuda_empty_cache() { empty_cache(); }
extern "C" __attribute__((visibility("default"))) void *torch_cuda_exchange_stream(int device, void *s) {
  void *before = streams[device];
  streams[device] = s;
  return before;
}
