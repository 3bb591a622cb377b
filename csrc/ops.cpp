// The catalogue: every schema, one per line, grouped by room. Each front door registers its own
// implementation.
#include <torch/csrc/stable/library.h>

// clang-format off
STABLE_TORCH_LIBRARY(tokenburst, m) {
  // tree
  m.def("tree_verify_greedy(Tensor tokens, Tensor argmax, Tensor parent, Tensor n_nodes, *, Tensor? eos=None) -> (Tensor path, Tensor n_accepted, Tensor next_token)");
}
// clang-format on
