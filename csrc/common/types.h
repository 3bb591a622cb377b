#pragma once
// The vocabulary of Params: plain types that g++, nvcc and the host executor read alike.
#include <cstdint>

#if defined(__CUDACC__) || defined(TB_SIMT)
#define TB_HD __host__ __device__ inline
#else
#define TB_HD inline
#endif

namespace tokenburst {

enum class DType : int32_t { f32, f16, bf16 };

// Token ids and indices come as int32 or int64; reading them hides which.
struct Ints {
  const void* data;
  bool wide;
  TB_HD int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
  TB_HD bool present() const { return data != nullptr; }
};

}  // namespace tokenburst
