#pragma once
// Everything the kernels need of the CUDA language beyond its keywords: launches, dynamic shared
// memory, warp reductions, 16-byte loads and the few PTX instructions. Kernels hold no inline PTX
// of their own, so whoever supplies this header can run them anywhere.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "common/math.h"

#define TB_EXPORT extern "C" __attribute__((visibility("default")))

#ifdef TB_SIMT  // the kernels run on the host: launches, shared memory and PTX come from there
#include <simt.h>
#endif

#ifndef TB_SIMT

// One name for the block's dynamic shared memory, aligned for 16-byte accesses.
#define TB_DYNAMIC_SHARED(T, name)                     \
  extern __shared__ __align__(16) uint8_t tb_shared[]; \
  T* name = reinterpret_cast<T*>(tb_shared)

namespace tokenburst {

// kernel<<<grid, block, shared, stream>>>(args...); returns the launch error. Empty grids are not
// launched.
template <class... Params, class... Args>
inline int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, void* stream,
                  Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(args...);
  return cudaGetLastError();
}

}  // namespace tokenburst

#endif  // TB_SIMT

namespace tokenburst {

constexpr unsigned full_warp = 0xffffffffu;

// Butterfly sums and maxima: every lane gets the result, in an order that never varies.
__device__ inline float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(full_warp, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(full_warp, x, offset));
  }
  return x;
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// 16 bytes as values of T; p must be 16-byte aligned.
template <class T>
struct Pack {
  static constexpr int size = 16 / sizeof(T);
  T value[size];
  __device__ static Pack load(const T* p) {
    Pack pack;
    const uint4 raw = __ldg(reinterpret_cast<const uint4*>(p));
    memcpy(&pack, &raw, sizeof raw);
    return pack;
  }
  __device__ void store(T* p) const {
    uint4 raw;
    memcpy(&raw, this, sizeof raw);
    *reinterpret_cast<uint4*>(p) = raw;
  }
};

#ifndef TB_SIMT

// 2^x, 2 ulp.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Asynchronous copy of 16 bytes from global to shared memory; with fill false, 16 zero bytes and no
// read.
__device__ inline void cp_async16(void* shared, const void* global, bool fill) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(fill ? 16 : 0)
               : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ inline void cp_async_wait() {  // until at most `pending` groups are in flight
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Barriers 1 to 15 of a block; __syncthreads is barrier 0. One is complete when `threads` threads
// have come, a multiple of 32 and the same number for all: those that sync wait for it and then see
// what all did before they came, those that arrive go on. A thread comes again only afterwards.
__device__ inline void named_barrier_sync(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Four 8x8 matrices of 16-bit values; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c[16x8] += a[16x16] b[16x8], fragments as the PTX manual lays out m16n8k16.
__device__ inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif  // TB_SIMT

}  // namespace tokenburst
