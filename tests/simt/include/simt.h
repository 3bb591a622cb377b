#pragma once
// What common/cuda.cuh holds as PTX, for the executor: launches, dynamic shared memory,
// asynchronous copies, named barriers and the matrix instructions.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define TB_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared())

namespace simt {

void* dynamic_shared() __attribute__((const));
unsigned shared_address(const void* p, Where where);
void copy_async(void* shared, const void* global, bool fill, Where where);
void copy_async_commit();
void copy_async_wait(int pending);
void named_barrier(bool waits, int id, int threads, Where where);
void load_matrix(uint32_t (&r)[4], const void* row, bool transposed, Where where);
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bfloat,
                  Where where);

// Runs body(context) once per thread of the grid; 0 or an error that cudaGetErrorString explains.
int run_grid(dim3 grid, dim3 block, size_t shared, void (*body)(void*), void* context,
             const void* kernel, size_t context_bytes);

}  // namespace simt

namespace tokenburst {

template <class... Params, class... Args>
inline int launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, void*,
                  Args... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...),
                "kernel arguments are copied as bytes");
  static_assert((sizeof(Params) + ... + 0) <= 4096, "a kernel takes at most 4 KB of arguments");
  struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> params;
    SIMT_UNWATCHED static void run(void* self) {
      const Call& call = *static_cast<Call*>(self);
      std::apply(call.kernel, call.params);
    }
  } call{kernel, {args...}};
  return simt::run_grid(grid, block, shared, &Call::run, &call,
                        reinterpret_cast<const void*>(kernel), sizeof call);
}

inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return std::fabs(y) < 1.17549435e-38f ? 0.0f : y;  // .ftz
}
inline unsigned shared_address(const void* p, SIMT_WHERE) { return simt::shared_address(p, where); }
inline void cp_async16(void* shared, const void* global, bool fill, SIMT_WHERE) {
  simt::copy_async(shared, global, fill, where);
}
inline void cp_async_commit() { simt::copy_async_commit(); }
template <int pending>
inline void cp_async_wait() {
  simt::copy_async_wait(pending);
}
inline void named_barrier_sync(int id, int threads, SIMT_WHERE) {
  simt::named_barrier(true, id, threads, where);
}
inline void named_barrier_arrive(int id, int threads, SIMT_WHERE) {
  simt::named_barrier(false, id, threads, where);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, SIMT_WHERE) {
  simt::load_matrix(r, row, false, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, SIMT_WHERE) {
  simt::load_matrix(r, row, true, where);
}
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         __nv_bfloat16, SIMT_WHERE) {
  simt::multiply_add(c, a, b0, b1, true, where);
}
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half,
                         SIMT_WHERE) {
  simt::multiply_add(c, a, b0, b1, false, where);
}

}  // namespace tokenburst
