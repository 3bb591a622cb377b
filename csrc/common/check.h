#pragma once
// What a front door asks of its tensors. Each line of a check block names one argument and says, in
// this order, what is expected of its device, dtype, shape and strides; a refusal reads "op:
// argument: expected ..., got ...".
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t any = -1;  // in a shape: whatever length

class Check {
 public:
  // The first tensor decides where the op runs; every other one must be there too.
  Check(const char* op, const Tensor& first, const char* name);

  void floating(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const;
  void float32(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const;
  void integer(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const;
  void int32(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const;
  void int64(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const;
  void boolean(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) const;

  // The same for an argument that may be absent.
  template <class Method>
  void optional(Method method, const OptionalTensor& t, const char* name,
                std::initializer_list<int64_t> shape) const {
    if (t) (this->*method)(*t, name, shape);
  }

  void same_dtype(const Tensor& t, const char* name, const Tensor& other, const char* as) const;
  void last_dim_contiguous(const Tensor& t, const char* name) const;
  void not_expanded(const Tensor& t, const char* name) const;  // for tensors written in place

  // `expected` is a text, or where one is checked per element a function that makes it on refusal.
  template <class Expected, class Got>
  void that(bool holds, const char* name, const Expected& expected, const Got& got) const {
    if (holds) return;
    std::ostringstream text;
    text << got;
    if constexpr (std::is_invocable_v<Expected>) {
      refuse(name, expected(), text.str());
    } else {
      refuse(name, expected, text.str());
    }
  }

  [[noreturn]] void refuse(const char* name, const std::string& expected,
                           const std::string& got) const;

  // False also where CPU tensors go to CUDA kernels that run on the host: values are not checked.
  bool on_cpu() const { return device_ == cpu_device; }
  int device() const { return device_; }  // CUDA index, cpu_device or executor_device

 private:
  void device_and_shape(const Tensor& t, const char* name, std::initializer_list<int64_t>) const;

  const char* op_;
  int device_;
};

std::string shape_of(const Tensor& t);
DType dtype_of(const Tensor& t);  // of a tensor that passed floating()

// Small integer tensors are read contiguous, whatever their strides and width; the returned tensor
// owns the memory.
inline Tensor packed(const Tensor& t) {  // a call of torch costs more than a small kernel
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}
inline OptionalTensor packed(const OptionalTensor& t) {
  return t ? OptionalTensor(packed(*t)) : std::nullopt;
}
inline Ints ints(const Tensor& t) {
  return {t.const_data_ptr(), t.scalar_type() == ScalarType::Long};
}
inline Ints ints(const OptionalTensor& t) { return t ? ints(*t) : Ints{nullptr, false}; }

// Uninitialised, where `like` is.
Tensor empty_strided_like_device(const Tensor& like, std::initializer_list<int64_t> shape,
                                 std::initializer_list<int64_t> strides, ScalarType dtype);
Tensor empty_like_device(const Tensor& like, std::initializer_list<int64_t> shape,
                         ScalarType dtype);

}  // namespace tokenburst

// Registers a front door for the CPU and for CUDA tensors: one function, so the two cannot drift.
#define TB_REGISTER(op)                                                                      \
  STABLE_TORCH_LIBRARY_IMPL(tokenburst, CPU, m) { m.impl(#op, TORCH_BOX(&tokenburst::op)); } \
  STABLE_TORCH_LIBRARY_IMPL(tokenburst, CUDA, m) { m.impl(#op, TORCH_BOX(&tokenburst::op)); }
