// What the loader asks of the CUDA library before it trusts it.
extern "C" __attribute__((visibility("default"))) const char* tokenburst_cuda_build_id() {
  return TB_BUILD_ID;
}

extern "C" __attribute__((visibility("default"))) const char* tokenburst_cuda_error(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
