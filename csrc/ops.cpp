// The catalogue: every schema, one per line, grouped by room. Each front door registers its own
// implementation.
#include <torch/csrc/stable/library.h>

// clang-format off
STABLE_TORCH_LIBRARY(tokenburst, m) {
  // tree
  m.def("tree_verify_greedy(Tensor tokens, Tensor argmax, Tensor parent, Tensor n_nodes, *, Tensor? eos=None) -> (Tensor path, Tensor n_accepted, Tensor next_token)");

  // unmask
  m.def("unmask_select_(Tensor(a!) x, Tensor position, Tensor token, int mask_id, *, Tensor? score=None, Tensor? rng=None, bool lowest_first=False, Tensor? top_k=None, Tensor? threshold=None, bool min_one=False, Tensor? commit_all=None) -> (Tensor committed, Tensor n_committed, Tensor n_left)");
}
// clang-format on
