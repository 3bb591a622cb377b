#include "common/check.h"

namespace tokenburst {
namespace {

const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

std::string device_name(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  if (t.is_cuda()) return "cuda:" + std::to_string(t.get_device_index());
  return "another device";
}

std::string shape_text(const int64_t* sizes, size_t dims) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < dims; ++i) {
    if (i) text << ", ";
    if (sizes[i] == any) {
      text << "*";
    } else {
      text << sizes[i];
    }
  }
  text << "]";
  return text.str();
}

}  // namespace

std::string shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return shape_text(sizes.data(), sizes.size());
}

DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    default:
      return DType::f32;
  }
}

Check::Check(const char* op, const Tensor& first, const char* name) : op_(op), device_(cpu_device) {
  if (first.is_cpu()) {
    if (executor_is_set()) device_ = executor_device;
    return;
  }
  if (!first.is_cuda()) refuse(name, "a CPU or CUDA tensor", "one on another device");
  device_ = first.get_device_index();
}

void Check::refuse(const char* name, const std::string& expected, const std::string& got) const {
  throw std::runtime_error(std::string(op_) + ": " + name + ": expected " + expected + ", got " +
                           got);
}

void Check::device_and_shape(const Tensor& t, const char* name,
                             std::initializer_list<int64_t> shape) const {
  const bool here = device_ < 0 ? t.is_cpu() : t.is_cuda() && t.get_device_index() == device_;
  if (!here) {
    const std::string device = device_ < 0 ? "cpu" : "cuda:" + std::to_string(device_);
    refuse(name, "a tensor on " + device, device_name(t));
  }
  const auto sizes = t.sizes();
  bool matches = sizes.size() == shape.size();
  for (size_t i = 0; matches && i < shape.size(); ++i) {
    const int64_t want = shape.begin()[i];
    matches = want == any || sizes[i] == want;
  }
  if (!matches) refuse(name, "shape " + shape_text(shape.begin(), shape.size()), shape_of(t));
}

void Check::floating(const Tensor& t, const char* name,
                     std::initializer_list<int64_t> shape) const {
  const auto dtype = t.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Half && dtype != ScalarType::BFloat16) {
    refuse(name, "float32, float16 or bfloat16", name_of(dtype));
  }
  device_and_shape(t, name, shape);
}

void Check::float32(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const {
  if (t.scalar_type() != ScalarType::Float) refuse(name, "float32", name_of(t.scalar_type()));
  device_and_shape(t, name, shape);
}

void Check::integer(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const {
  const auto dtype = t.scalar_type();
  if (dtype != ScalarType::Int && dtype != ScalarType::Long) {
    refuse(name, "int32 or int64", name_of(dtype));
  }
  device_and_shape(t, name, shape);
}

void Check::int32(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const {
  if (t.scalar_type() != ScalarType::Int) refuse(name, "int32", name_of(t.scalar_type()));
  device_and_shape(t, name, shape);
}

void Check::int64(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const {
  if (t.scalar_type() != ScalarType::Long) refuse(name, "int64", name_of(t.scalar_type()));
  device_and_shape(t, name, shape);
}

void Check::boolean(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const {
  if (t.scalar_type() != ScalarType::Bool) refuse(name, "bool", name_of(t.scalar_type()));
  device_and_shape(t, name, shape);
}

void Check::same_dtype(const Tensor& t, const char* name, const Tensor& other,
                       const char* as) const {
  if (t.scalar_type() == other.scalar_type()) return;
  refuse(name, std::string("the dtype of ") + as + " (" + name_of(other.scalar_type()) + ")",
         name_of(t.scalar_type()));
}

void Check::last_dim_contiguous(const Tensor& t, const char* name) const {
  const int64_t last = t.dim() - 1;
  if (t.size(last) > 1 && t.stride(last) != 1) {
    refuse(name, "a contiguous last dimension", "stride " + std::to_string(t.stride(last)));
  }
}

void Check::not_expanded(const Tensor& t, const char* name) const {
  const auto sizes = t.sizes(), strides = t.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] <= 1 || strides[d] != 0) continue;
    refuse(name, "a tensor of its own memory",
           "one expanded in dimension " + std::to_string(d) + " (clone it first)");
  }
}

namespace {

// Straight to the allocator: torch's operators cost a microsecond each.
Tensor allocate(const Tensor& like, const int64_t* shape, const int64_t* strides, size_t dims,
                ScalarType dtype) {
  namespace stable = torch::stable::detail;
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(dims), shape, strides,
                                                         stable::to<int32_t>(stable::from(dtype)),
                                                         device_type, device_index, &made));
  return Tensor(made);
}

}  // namespace

Tensor empty_strided_like_device(const Tensor& like, std::initializer_list<int64_t> shape,
                                 std::initializer_list<int64_t> strides, ScalarType dtype) {
  return allocate(like, shape.begin(), strides.begin(), shape.size(), dtype);
}

Tensor empty_like_device(const Tensor& like, std::initializer_list<int64_t> shape,
                         ScalarType dtype) {
  int64_t strides[8], step = 1;
  if (shape.size() > 8) throw std::logic_error("empty_like_device: more than 8 dimensions");
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape.begin()[i] > 1 ? shape.begin()[i] : 1;
  }
  return allocate(like, shape.begin(), strides, shape.size(), dtype);
}

}  // namespace tokenburst
