#include "runtime.h"
namespace simt {
void check_access(const void*, size_t, Access, Where, const void*) {}
void check_in_flight(const void*, bool, Where) {}
void start_checks() {}
}  // namespace simt
