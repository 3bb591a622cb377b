// The catalogue: every schema, one per line, grouped by room. Each front door registers its own
// implementation.
#include <torch/csrc/stable/library.h>

// clang-format off
STABLE_TORCH_LIBRARY(tokenburst, m) {
  // vocab
  m.def("vocab_stats(Tensor logits, int k=1, *, Tensor? rows=None, Tensor? suppress=None, Tensor? temperature=None, Tensor? rng=None) -> (Tensor ids, Tensor values, Tensor lse, Tensor token, Tensor confidence, Tensor margin, Tensor entropy, Tensor n_nan)");
  m.def("vocab_top(Tensor logits, int k=1, *, Tensor? count=None) -> (Tensor ids, Tensor values)");
  m.def("vocab_filter(Tensor logits, *, Tensor? rows=None, Tensor? uncond=None, Tensor? guidance=None, Tensor? suppress=None, Tensor? bias_ids=None, Tensor? bias=None, Tensor? unranked=None, Tensor? temperature=None, Tensor? rng=None, Tensor? top_k=None, Tensor? top_p=None, bool tempered=False) -> (Tensor token, Tensor confidence, Tensor margin, Tensor entropy, Tensor log_odds, Tensor gap, Tensor n_kept, Tensor n_nan)");
  m.def("vocab_sample(Tensor logits, int k, Tensor temperature, Tensor rng, *, Tensor? rows=None, Tensor? parent_g=None, Tensor? parent_phi=None, bool replacement=False) -> (Tensor ids, Tensor logq, Tensor g, Tensor lse)");

  // attention
  m.def("attn_sparse(Tensor q, Tensor k, Tensor v, Tensor bits, int block, *, Tensor? kv_len=None, float? scale=None) -> (Tensor out, Tensor lse)");
  m.def("attn_tree(Tensor q, Tensor k_cache, Tensor v_cache, Tensor kv_len, *, Tensor? ancestors=None, Tensor? n_nodes=None, Tensor? page_table=None, bool causal=True, int? window=None, float? scale=None) -> (Tensor out, Tensor lse)");
  m.def("attn_block_mass(Tensor q, Tensor k, int block, *, Tensor? prompt_len=None, Tensor? kv_len=None, float? scale=None) -> (Tensor prefix_mass, Tensor generation_mass)");
  m.def("attn_select_blocks(Tensor prefix_mass, Tensor generation_mass, int length, int block, float keep, *, Tensor? prompt_len=None, Tensor? kv_len=None) -> Tensor bits");
  // tree
  m.def("tree_build(Tensor parent, Tensor n_nodes) -> (Tensor depth, Tensor first_child, Tensor next_sibling, Tensor ancestors)");
  m.def("tree_merge(Tensor tokens, Tensor parent) -> (Tensor tokens, Tensor parent, Tensor node)");
  m.def("tree_verify_greedy(Tensor tokens, Tensor argmax, Tensor parent, Tensor n_nodes, *, Tensor? eos=None) -> (Tensor path, Tensor n_accepted, Tensor next_token)");
  m.def("tree_commit_kv_(Tensor(a!)[] k_caches, Tensor(b!)[] v_caches, Tensor kv_len, Tensor path, Tensor n_accepted, *, Tensor? page_table=None) -> ()");
  m.def("tree_append_(Tensor(a!) text, Tensor(b!) length, Tensor(c!) root, Tensor(d!) active, Tensor(e!) rng, Tensor end, Tensor tokens, Tensor path, Tensor n_accepted, Tensor next_token, *, Tensor? eos=None, Tensor(f!)? kv_len=None) -> Tensor taken");
  m.def("tree_verify_sample(Tensor tokens, Tensor parent, Tensor n_nodes, Tensor logits, str mode, Tensor rng, *, Tensor? temperature=None, Tensor? top_k=None, Tensor? top_p=None, Tensor? min_p=None, Tensor? repetition_penalty=None, Tensor? seen=None, Tensor? draft_logits=None, Tensor? draft_temperature=None, Tensor? draft_ids=None, Tensor? draft_probs=None, Tensor? draft_row=None, Tensor? draws=None, Tensor? eos=None, float epsilon=0.09, float delta=0.3, int group_size=15, float group_delta=0.15) -> (Tensor path, Tensor n_accepted, Tensor next_token, Tensor n_nan)");
  // recycle
  m.def("recycle_draft(Tensor adjacency, Tensor root, Tensor parent, Tensor rank, *, Tensor? group=None) -> Tensor tokens");
  m.def("recycle_update_(Tensor(a!) adjacency, Tensor tokens, Tensor ids, *, Tensor? n_nodes=None, Tensor? group=None) -> ()");

  // ngram
  m.def("ngram_match(Tensor tokens, Tensor length, int k, *, int most=3, int least=1, bool whole=False, bool latest=False) -> (Tensor draft, Tensor n_draft, Tensor match_len)");
  m.def("ngram_draft(Tensor key, Tensor ids, Tensor probs, Tensor text, Tensor start, Tensor parent, Tensor rank, *, Tensor? temperature=None, Tensor? rng=None, int most=4, int least=2) -> (Tensor tokens, Tensor drawn, Tensor drawn_probs)");
  m.def("ngram_update_(Tensor(a!) key, Tensor(b!) count, Tensor(c!) ids, Tensor(d!) probs, Tensor text, Tensor start, Tensor tokens, Tensor parent, Tensor top_ids, Tensor top_probs, *, Tensor? n_nodes=None, int most=4, int least=2) -> ()");

  // unmask
  m.def("unmask_select_(Tensor(a!) x, Tensor position, Tensor token, int mask_id, *, Tensor? score=None, Tensor? rng=None, bool lowest_first=False, bool strict=False, Tensor? top_k=None, Tensor? threshold=None, Tensor? factor=None, Tensor? budget=None, bool min_one=False, Tensor? commit_all=None, Tensor? most=None, Tensor? near=None, int reach=0, Tensor? reveal=None, Tensor? noise=None, Tensor? damped=None, Tensor? damping=None, Tensor? edit=None) -> (Tensor committed, Tensor n_committed, Tensor n_left, Tensor n_edited)");
  m.def("unmask_remask_(Tensor(a!) x, Tensor position, int mask_id, *, Tensor score, int span=1, Tensor? top_k=None, Tensor? threshold=None, Tensor? most=None, Tensor? probability=None, Tensor? rng=None) -> (Tensor remasked, Tensor n_remasked)");
}
// clang-format on
