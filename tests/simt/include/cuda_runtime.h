#pragma once
// The CUDA language for a host compiler: keywords, indices, vector types, intrinsics. Only what has
// no meaning outside a running block goes to the executor; the rest is plain arithmetic.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
// Thread-local storage keeps the shared variables of a library apart from everything else, so the
// executor can find, poison and watch them; blocks run one after another on one host thread.
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
#define SIMT_UNWATCHED __attribute__((no_sanitize_thread))

struct alignas(2) char2 {
  signed char x, y;
};
struct alignas(4) char4 {
  signed char x, y, z, w;
};
struct alignas(2) uchar2 {
  unsigned char x, y;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(4) short2 {
  short x, y;
};
struct alignas(8) short4 {
  short x, y, z, w;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct int3 {
  int x, y, z;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

inline char2 make_char2(signed char x, signed char y) { return {x, y}; }
inline short2 make_short2(short x, short y) { return {x, y}; }
inline ushort2 make_ushort2(unsigned short x, unsigned short y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace simt {

// Where a kernel calls the executor; default arguments take the caller's line.
struct Where {
  const char* file;
  int line;
};
#define SIMT_WHERE ::simt::Where where = {__builtin_FILE(), __builtin_LINE()}

// Constant within a fiber, so the compiler may keep them.
uint3 thread_idx() __attribute__((const));
uint3 block_idx() __attribute__((const));
dim3 block_dim() __attribute__((const));
dim3 grid_dim() __attribute__((const));

enum class Barrier { sync, count, all, any };
enum class Shuffle { idx, up, down, exclusive_or };
enum class Vote { ballot, any, all, match_any, match_all };
enum class Reduce { add_u, add_s, min_u, min_s, max_u, max_s, bit_and, bit_or, bit_xor };

int barrier(Barrier kind, int predicate, Where where);
void sync_warp(unsigned mask, Where where);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int argument, int width, Where where);
unsigned vote(Vote kind, unsigned mask, uint64_t value, Where where);
unsigned reduce(Reduce kind, unsigned mask, unsigned value, Where where);
unsigned active_mask();
void yield();
// Before an atomic or read-only access: bounds, alignment, races; an atomic may also lose its turn.
void atomic_access(const void* p, int bytes, Where where);
void read_only_access(const void* p, int bytes, Where where);

template <class T>
SIMT_UNWATCHED inline uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  __builtin_memcpy(&word, &value, sizeof(T));
  return word;
}
template <class T>
SIMT_UNWATCHED inline T from_word(uint64_t word) {
  T value;
  __builtin_memcpy(&value, &word, sizeof(T));
  return value;
}

template <class T, class F>
SIMT_UNWATCHED inline T atomic(T* p, Where where, F change) {
  atomic_access(p, sizeof(T), where);
  const T old = *p;
  *p = change(old);
  return old;
}

}  // namespace simt

#define threadIdx (::simt::thread_idx())
#define blockIdx (::simt::block_idx())
#define blockDim (::simt::block_dim())
#define gridDim (::simt::grid_dim())
constexpr int warpSize = 32;

inline void __syncthreads(SIMT_WHERE) { simt::barrier(simt::Barrier::sync, 0, where); }
inline int __syncthreads_count(int predicate, SIMT_WHERE) {
  return simt::barrier(simt::Barrier::count, predicate, where);
}
inline int __syncthreads_and(int predicate, SIMT_WHERE) {
  return simt::barrier(simt::Barrier::all, predicate, where);
}
inline int __syncthreads_or(int predicate, SIMT_WHERE) {
  return simt::barrier(simt::Barrier::any, predicate, where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_WHERE) { simt::sync_warp(mask, where); }
inline unsigned __activemask() { return simt::active_mask(); }
inline void __nanosleep(unsigned) { simt::yield(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SIMT_WHERE) {
  return simt::from_word<T>(
      simt::shuffle(simt::Shuffle::idx, mask, simt::to_word(value), lane, width, where));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_WHERE) {
  return simt::from_word<T>(
      simt::shuffle(simt::Shuffle::up, mask, simt::to_word(value), delta, width, where));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_WHERE) {
  return simt::from_word<T>(
      simt::shuffle(simt::Shuffle::down, mask, simt::to_word(value), delta, width, where));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, SIMT_WHERE) {
  return simt::from_word<T>(
      simt::shuffle(simt::Shuffle::exclusive_or, mask, simt::to_word(value), lanes, width, where));
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_WHERE) {
  return simt::vote(simt::Vote::ballot, mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_WHERE) {
  return simt::vote(simt::Vote::any, mask, predicate != 0, where);
}
inline int __all_sync(unsigned mask, int predicate, SIMT_WHERE) {
  return simt::vote(simt::Vote::all, mask, predicate != 0, where);
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, SIMT_WHERE) {
  return simt::vote(simt::Vote::match_any, mask, simt::to_word(value), where);
}
template <class T>
inline unsigned __match_all_sync(unsigned mask, T value, int* all, SIMT_WHERE) {
  const unsigned same = simt::vote(simt::Vote::match_all, mask, simt::to_word(value), where);
  *all = same != 0;
  return same;
}

#define SIMT_REDUCE(name, T, kind)                                                    \
  inline T name(unsigned mask, T value, SIMT_WHERE) {                                 \
    return static_cast<T>(                                                            \
        simt::reduce(simt::Reduce::kind, mask, static_cast<unsigned>(value), where)); \
  }
SIMT_REDUCE(__reduce_add_sync, unsigned, add_u)
SIMT_REDUCE(__reduce_add_sync, int, add_s)
SIMT_REDUCE(__reduce_min_sync, unsigned, min_u)
SIMT_REDUCE(__reduce_min_sync, int, min_s)
SIMT_REDUCE(__reduce_max_sync, unsigned, max_u)
SIMT_REDUCE(__reduce_max_sync, int, max_s)
SIMT_REDUCE(__reduce_and_sync, unsigned, bit_and)
SIMT_REDUCE(__reduce_or_sync, unsigned, bit_or)
SIMT_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef SIMT_REDUCE

// The second argument of each atomic is converted to the type of the memory, as CUDA's overloads
// do.
#define SIMT_ATOMIC(name, expression)                                                     \
  template <class T>                                                                      \
  inline T name(T* p, std::common_type_t<T> v, SIMT_WHERE) {                              \
    return simt::atomic(p, where, [v](T old) SIMT_UNWATCHED -> T { return expression; }); \
  }
SIMT_ATOMIC(atomicAdd, old + v)
SIMT_ATOMIC(atomicSub, old - v)
SIMT_ATOMIC(atomicExch, ((void)old, v))
SIMT_ATOMIC(atomicMin, old < v ? old : v)
SIMT_ATOMIC(atomicMax, old > v ? old : v)
SIMT_ATOMIC(atomicAnd, old& v)
SIMT_ATOMIC(atomicOr, old | v)
SIMT_ATOMIC(atomicXor, old ^ v)
SIMT_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
SIMT_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1)
#undef SIMT_ATOMIC
template <class T>
inline T atomicCAS(T* p, std::common_type_t<T> compare, std::common_type_t<T> v, SIMT_WHERE) {
  return simt::atomic(p, where,
                      [=](T old) SIMT_UNWATCHED -> T { return old == compare ? v : old; });
}

template <class T>
SIMT_UNWATCHED inline T __ldg(const T* p, SIMT_WHERE) {
  simt::read_only_access(p, sizeof(T), where);
  return *p;
}
// Cache hints change no value.
template <class T>
inline T __ldca(const T* p, SIMT_WHERE) {
  return __ldg(p, where);
}
template <class T>
inline T __ldcg(const T* p, SIMT_WHERE) {
  return __ldg(p, where);
}
template <class T>
inline T __ldcs(const T* p, SIMT_WHERE) {
  return __ldg(p, where);
}
template <class T>
inline void __stcg(T* p, T value) {
  *p = value;
}
template <class T>
inline void __stcs(T* p, T value) {
  *p = value;
}
template <class T>
inline void __stwt(T* p, T value) {
  *p = value;
}

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>)
    return std::fmin(a, b);
  else
    return b < a ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>)
    return std::fmax(a, b);
  else
    return a < b ? b : a;
}

inline float __int_as_float(int v) { return simt::from_word<float>(simt::to_word(v)); }
inline int __float_as_int(float v) { return simt::from_word<int>(simt::to_word(v)); }
inline float __uint_as_float(unsigned v) { return simt::from_word<float>(simt::to_word(v)); }
inline unsigned __float_as_uint(float v) { return simt::from_word<unsigned>(simt::to_word(v)); }
inline double __longlong_as_double(long long v) {
  return simt::from_word<double>(simt::to_word(v));
}
inline long long __double_as_longlong(double v) {
  return simt::from_word<long long>(simt::to_word(v));
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return std::exp(a); }
inline float __exp2f(float a) { return std::exp2(a); }
inline float __logf(float a) { return std::log(a); }
inline float __log2f(float a) { return std::log2(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline int __float2int_rz(float a) { return static_cast<int>(a); }
inline int __float2int_rd(float a) { return static_cast<int>(std::floor(a)); }
inline int __float2int_ru(float a) { return static_cast<int>(std::ceil(a)); }
inline unsigned __float2uint_rz(float a) { return static_cast<unsigned>(a); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __clzll(long long v) {
  return v ? __builtin_clzll(static_cast<unsigned long long>(v)) : 64;
}
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1u) << (31 - i);
  return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i);
    unsigned byte = bytes >> (8 * (pick & 7)) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
inline int __mulhi(int a, int b) { return static_cast<int64_t>(a) * b >> 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned __int128>(a) * b >> 64;
}
inline void __builtin_assume(bool) {}
inline void __trap() { __builtin_trap(); }
template <class T>
inline void __prefetch_global_l2(const T*) {}

using cudaStream_t = struct CUstream_st*;
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
template <class Kernel>
inline cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {  // of an H200
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 233472;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 232448;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  memset(p, value, bytes);
  return cudaSuccess;
}

#ifdef __SANITIZE_THREAD__
// The compiler announces the accesses of small copies, which become loads and stores, but not those
// of calls to memcpy. No standard header may follow.
namespace simt {
void copy_bytes(void* to, const void* from, size_t bytes);
}
#define memcpy(to, from, bytes)                                                   \
  (__builtin_constant_p(bytes) && ((bytes) & ((bytes) - 1)) == 0 && (bytes) <= 16 \
       ? static_cast<void>(__builtin_memcpy(to, from, bytes))                     \
       : ::simt::copy_bytes(to, from, bytes))
#endif

// After __shared__ a host compiler refuses the standard form.
#define alignas(n) __attribute__((aligned(n)))
