// CUDA tensors for a torch that was built without CUDA: memory of the fake runtime, which no
// processor may touch, views as torch makes them, copies through that runtime; all other operators
// work on copies in host memory.
#include <ATen/EmptyTensor.h>
#include <ATen/ATen.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

extern "C" {
int cudaGetDeviceCount(int *);
int cudaSetDevice(int);
int cudaGetDevice(int *);
int cudaMalloc(void **, size_t);
int cudaFree(void *);
int cudaMemcpyAsync(void *, const void *, size_t, int, void *);
int cudaStreamSynchronize(void *);
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

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t nbytes) override {
    void *data = nullptr;
    c10::Device device = here();
    int code = nbytes ? cudaMalloc(&data, nbytes) : 0;
    if (code == 2) {
      cudaGetLastError();
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", nbytes);
    }
    check(code);
    return {data, data, &give_back, device};
  }
  static void give_back(void *data) {
    if (data) cudaFree(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
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
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("record_stream", record_stream);
}
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_host>()); }

extern "C" __attribute__((visibility("default"))) void *torch_cuda_exchange_stream(int device, void *s) {
  void *before = streams[device];
  streams[device] = s;
  return before;
}
