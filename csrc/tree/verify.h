#pragma once
// The rules of stochastic verification, one text for CPU and GPU. All that grows with the
// vocabulary is behind `Rows`: on a GPU a whole block runs this code in step and its threads share
// the rows.
//
// With integer weights w of the target (total W) and u of a draft (total U), every rule keeps the
// target's remainder in closed form. Rejecting a draw of u turns the remainder r into
// r - u Z / S, cut off at 0, where Z is the total of r and S the total of u that can still be
// drawn; since (a - b)+ - c)+ = (a - b - c)+, only the coefficient of u has to be remembered.
#include "common/weights.h"
#include "tree/tree_verify_sample.h"

namespace tokenburst {
namespace {

constexpr int64_t max_group = 65;  // tokens of a group in lossy_grouped
constexpr int max_drafts = 8;      // different draft rows among the draws of one node

struct Draft {
  int64_t row;
  float most, inv_t;  // most: its largest logit; inv_t 0: all mass on `best`
  int64_t best;
  double total, left;  // left: without what was drawn and rejected
  double coefficient;  // how often it has been subtracted, in units of the target per unit of it
};

enum class LawKind { remainder, capped, kseq, typical };

struct Law {  // of the token after a node, as weights
  LawKind kind;
  int num_drafts;
  int64_t num_banned;
  double scale;       // of the target: 1, or the joint ratio in block verification
  double rho, share;  // K-SEQ: acceptance is min(1, w / (rho s)); its mass that the draws emit
  double row_total;
  float least;  // typical: tokens must be more probable than this
  Draft draft[max_drafts];

  TB_HD void reset(uint64_t total) {
    kind = LawKind::remainder;
    num_drafts = 0;
    num_banned = 0;
    scale = 1.0;
    row_total = static_cast<double>(total);
  }
};

// P log P of typical acceptance as an integer, 1e-5 keeps the logarithm finite.
TB_HD int64_t entropy_term(double w, double total) {
  const auto prob = static_cast<float>(w / total);
  return static_cast<int64_t>(
      rint(static_cast<double>(prob * -log_fast(prob + 1e-5f)) * weight_unit));
}

// A draft's share of a token in units of the target. No weight exceeds 2^40, so more than 2^41
// says no more.
TB_HD double scaled(double coefficient, double u) {
  const double s = coefficient * u;
  return rint(s < 0x1p41 ? s : 0x1p41);
}

TB_HD double prob_weight(float prob) {
  return prob > 0.0f && prob <= 2.0f ? weight(prob) : 0.0;  // NaN is none
}

template <class Rows>
TB_HD double draft_weight(const TreeVerifySampleParams& p, int64_t b, const Draft& draft,
                          int64_t x) {
  if (p.draft_probs) {
    const int64_t first = (b * p.draft_rows + draft.row) * p.draft_width;
    double sum = 0.0;
    for (int64_t i = first; i < first + p.draft_width; ++i) {
      if (p.draft_ids[i] == x) sum += prob_weight(p.draft_probs[i]);
    }
    return sum;
  }
  if (draft.inv_t == 0.0f) return x == draft.best ? weight_unit : 0.0;
  const int64_t at = b * p.draft_batch_stride + draft.row * p.draft_stride + x;
  const float l = clean_logit(Rows::load(p.draft_dtype, p.draft_logits, at));
  return weight(exp_fast((l - draft.most) * draft.inv_t));
}

// The weight that the law leaves to token x, whose target weight is w.
template <class Rows>
TB_HD double law_weight(const TreeVerifySampleParams& p, int64_t b, const Law& law,
                        const int64_t* banned, int64_t x, double w) {
  if (w == 0.0) return 0.0;
  if (law.kind == LawKind::typical) {
    return static_cast<float>(w / law.row_total) > law.least ? w : 0.0;
  }
  if (law.kind == LawKind::remainder) {
    double rest = rint(law.scale * w);
    for (int i = 0; i < law.num_drafts; ++i) {
      const Draft& draft = law.draft[i];
      if (draft.coefficient == 0.0) continue;
      rest -= scaled(draft.coefficient, draft_weight<Rows>(p, b, draft, x));
    }
    for (int64_t i = 0; i < law.num_banned; ++i) {
      if (banned[i] == x) return 0.0;
    }
    return rest > 0.0 ? rest : 0.0;
  }
  const Draft& draft = law.draft[0];
  const double s = scaled(draft.coefficient, draft_weight<Rows>(p, b, draft, x));
  const double by_target = rint(w / law.rho), accepted = s < by_target ? s : by_target;
  if (law.kind == LawKind::capped) return accepted;
  const double rest = w - rint(accepted * law.share);
  return rest > 0.0 ? rest : 0.0;
}

TB_HD int64_t tried_length(const TreeVerifySampleParams& p) {
  return p.num_draws > p.nodes ? p.num_draws : p.nodes;
}

// Order of the tokens of a group: by weight, which is at most 2^40, then by id.
TB_HD uint64_t group_key(double w, int64_t x) {
  return static_cast<uint64_t>(w) << 22 | static_cast<uint64_t>(max_weighed_vocab - 1 - x);
}
TB_HD int64_t group_id(uint64_t key) {
  return max_weighed_vocab - 1 - static_cast<int64_t>(key & (max_weighed_vocab - 1));
}

// f(l) of the repetition penalty as transformers has it, kept finite.
TB_HD float penalised(float l, float penalty) {
  const float changed = l < 0.0f ? l * penalty : l / penalty;
  const float largest = 3.402823466e38f;
  return changed > largest ? largest : changed;
}

template <class Rows>
class Verifier {
 public:
  TB_HD Verifier(const TreeVerifySampleParams& params, int64_t sequence, Rows& backing)
      : p(params), b(sequence), rows(backing), law(backing.law()) {}

  TB_HD void run() {
    const int64_t given = p.n_nodes[b];
    count = given < p.nodes ? given : p.nodes;
    seed = static_cast<uint64_t>(p.rng[b * 3]);
    sequence_id = static_cast<uint32_t>(p.rng[b * 3 + 1]);
    root = static_cast<uint32_t>(p.rng[b * 3 + 2]);
    if (count <= 0) return finish(-1);
    rows.start_path();
    const float t = p.temperature ? p.temperature[b] : 1.0f;
    const bool greedy = !(t > 0.0f);
    accept(0);
    if (greedy || p.mode == VerifyMode::walk) return walk(greedy);
    if (p.mode == VerifyMode::block) return block();
    if (p.mode == VerifyMode::lossy_typical) return typical();
    siblings();
  }

 private:
  const TreeVerifySampleParams& p;
  int64_t b;
  Rows& rows;
  Law& law;
  int64_t count, node = 0;
  int32_t length = 0;
  uint64_t seed;
  uint32_t sequence_id, root;

  TB_HD int64_t token_of(int64_t i) const { return p.tokens[b * p.nodes + i]; }
  TB_HD int64_t parent_of(int64_t i) const { return p.parent[b * p.nodes + i]; }
  TB_HD bool possible(int64_t token) const { return 0 <= token && token < p.vocab; }
  TB_HD bool ended() const {  // at an end-of-sequence token that was drafted
    for (int64_t e = 0; node > 0 && e < p.num_eos; ++e) {
      if (p.eos[e] == token_of(node)) return true;
    }
    return false;
  }
  TB_HD Philox4 random(int64_t slot) const {
    return philox(seed, verdicts + static_cast<uint32_t>(slot), position(), slot == 0 ? 0 : root,
                  sequence_id);
  }
  TB_HD uint32_t position() const { return root + static_cast<uint32_t>(length) - 1; }

  TB_HD void step_to(int64_t i) {
    node = i;
    ++length;
    if (possible(token_of(i))) rows.mark(token_of(i));
  }
  TB_HD void accept(int64_t i) {
    if (rows.leader()) p.path[b * p.nodes + length] = static_cast<int32_t>(i);
    step_to(i);
  }
  TB_HD void finish(int64_t next_token) {
    if (!rows.leader()) return;
    p.n_accepted[b] = length;
    p.next_token[b] = next_token;
    p.n_nan[b] = rows.n_nan();
  }
  // The distribution after the current node; false if its row holds no number.
  TB_HD bool open() {
    if (!rows.open(node)) return false;
    rows.update([&] { law.reset(rows.total()); });
    return true;
  }
  TB_HD int64_t draw(uint64_t total) {  // from the law, after rows.sum()
    return rows.find(random_below(total, random(1)));
  }
  // The token after the path where the law may have come down to nothing: then the rejections that
  // led here had probability 0, and the row itself stands for it.
  TB_HD void finish_from_law(uint64_t total) {
    if (total == 0) {
      rows.update([&] { law.reset(rows.total()); });
      total = rows.sum();
    }
    finish(draw(total));
  }

  TB_HD void walk(bool greedy) {
    while (open()) {
      const int64_t token =
          greedy ? rows.best() : rows.find_plain(random_below(rows.total(), random(0)));
      int64_t child = ended() ? count : node + 1;
      while (child < count && !(parent_of(child) == node && token_of(child) == token)) ++child;
      if (child >= count) return finish(token);
      accept(child);
    }
    finish(-1);
  }

  // --- drafts ------------------------------------------------------------------------------------
  TB_HD int64_t draw_node(int64_t m) const {  // -1 unless draw m belongs to the current node
    const int64_t i = p.draws.present() ? p.draws[b * p.num_draws + m] : m;
    return node < i && i < count && parent_of(i) == node && possible(token_of(i)) ? i : -1;
  }
  TB_HD bool has_drafts() const { return p.draft_logits || p.draft_probs; }
  TB_HD int64_t row_of(int64_t m) const {  // -1: the token was certain, -2: no such row
    if (!has_drafts()) return -1;
    const int64_t row = p.draft_row.present() ? p.draft_row[b * p.num_draws + m] : node;
    return -1 <= row && row < p.draft_rows ? row : -2;
  }
  // Index in the law of a draft row, opened on first use; -1 if it has no mass or there are too
  // many.
  TB_HD int use_draft(int64_t row) {
    for (int i = 0; i < law.num_drafts; ++i) {
      if (law.draft[i].row == row) return i;
    }
    if (law.num_drafts == max_drafts) return -1;
    Draft draft{row, 0.0f, 0.0f, -1, 0.0, 0.0, 0.0};
    if (p.draft_probs) {
      const int64_t first = (b * p.draft_rows + row) * p.draft_width;
      for (int64_t i = first; i < first + p.draft_width; ++i) {
        if (possible(p.draft_ids[i])) draft.total += prob_weight(p.draft_probs[i]);
      }
    } else {
      const float t = p.draft_temperature ? p.draft_temperature[b] : 1.0f;
      draft.inv_t = t > 0.0f ? inverse_temperature(t) : 0.0f;
      rows.open_draft(draft);
    }
    if (draft.total == 0.0) return -1;
    draft.left = draft.total;
    const int index = law.num_drafts;
    rows.update([&] {
      law.draft[index] = draft;
      law.num_drafts = index + 1;
    });
    return index;
  }
  TB_HD double weight_of(int64_t token) {  // that the law leaves to it
    return law_weight<Rows>(p, b, law, rows.tried(), token, rows.weight(token));
  }

  // Recursive rejection: draws are tried in order, each against what the earlier ones left.
  TB_HD void siblings() {
    while (open()) {
      int64_t child = -1;
      if (!ended()) child = p.mode == VerifyMode::kseq ? try_kseq() : try_each();
      if (child < 0) return finish_from_law(rows.sum());
      accept(child);
    }
    finish(-1);
  }
  TB_HD int64_t try_each() {
    const bool without = p.mode != VerifyMode::rrs_wr;
    uint64_t total = rows.total();
    int64_t num_tried = 0;  // rejected draws of draft rows, from the end of `tried` down
    for (int64_t m = 0; m < p.num_draws; ++m) {
      const int64_t i = draw_node(m);
      if (i < 0) continue;
      const int64_t token = token_of(i), row = row_of(m);
      if (row == -2) continue;
      if (row == -1) {  // certain: accepted with its own probability, else it is out
        const double mine = weight_of(token);
        if (uniform(random(m + 2)) * static_cast<double>(total) < mine) return i;
        total -= static_cast<uint64_t>(mine);
        rows.update([&] { rows.tried()[law.num_banned++] = token; });
        if (total == 0) return -1;
        continue;
      }
      const int d = use_draft(row);
      if (d < 0) continue;
      double u = draft_weight<Rows>(p, b, law.draft[d], token);
      const int64_t last = p.num_draws - 1;
      for (int64_t j = 0; without && j < num_tried; ++j) {
        if (rows.tried()[last - j] == (token << 3 | d)) u = 0.0;
      }
      if (u == 0.0) continue;  // cannot have been drawn from this row
      const double ratio = static_cast<double>(total) / law.draft[d].left;
      if (accepts(uniform(random(m + 2)), ratio, u, token, d)) return i;
      if (p.mode == VerifyMode::lossy_grouped) {
        rows.update([&] { law.draft[d].coefficient = ratio; });
        return -1;
      }
      const double before = law.draft[d].coefficient;
      rows.update([&] {
        law.draft[d].coefficient += ratio;
        if (without) {
          law.draft[d].left -= u;
          rows.tried()[last - num_tried] = token << 3 | d;
        }
      });
      ++num_tried;
      const uint64_t rest = rows.sum();
      if (rest == 0) {  // this rejection had probability 0: what it was tried against stands
        rows.update([&] { law.draft[d].coefficient = before; });
        return -1;
      }
      total = rest;
    }
    return -1;
  }
  TB_HD bool accepts(double coin, double ratio, double u, int64_t token, int d) {
    if (p.mode != VerifyMode::lossy_grouped) return coin * (ratio * u) < weight_of(token);
    double of_target = rows.weight(token), of_draft = u;
    if (of_target == 0.0) return false;
    rows.add_group(law.draft[d], token, of_target, of_draft);
    return coin * (ratio * of_draft) < of_target;
  }

  // K-SEQ: all k draws are of one row and tried alike, with the least rho that leaves no negative
  // remainder.
  TB_HD int64_t try_kseq() {
    int64_t row = -1;
    int k = 0;
    for (int64_t m = 0; m < p.num_draws; ++m) {
      if (draw_node(m) < 0 || row_of(m) < 0) continue;
      if (row < 0) row = row_of(m);
      k += row_of(m) == row;
    }
    const int d = row < 0 ? -1 : use_draft(row);
    if (d < 0) return -1;
    rows.update([&] {
      law.kind = LawKind::capped;
      law.draft[0].coefficient = law.row_total / law.draft[0].total;
    });
    const double beta = choose_rho(k);
    rows.update([&] {
      law.kind = LawKind::kseq;
      law.share = beta > 0.0 ? emitted(beta, k) / beta : 0.0;
    });
    for (int64_t m = 0; m < p.num_draws; ++m) {
      const int64_t i = draw_node(m);
      if (i < 0 || row_of(m) != row) continue;
      const double u = draft_weight<Rows>(p, b, law.draft[0], token_of(i));
      const double s = scaled(law.draft[0].coefficient, u);
      const double by_target = rint(rows.weight(token_of(i)) / law.rho);
      if (uniform(random(m + 2)) * s < by_target && s > 0.0) return i;
    }
    return -1;
  }
  TB_HD static double emitted(double beta, int k) {  // 1 - (1 - beta)^k
    double none = 1.0;
    for (int i = 0; i < k; ++i) none = none * (1.0 - beta);
    return 1.0 - none;
  }
  TB_HD double capped_mass(double rho) {
    rows.update([&] { law.rho = rho; });
    const double beta = static_cast<double>(rows.sum()) / law.row_total;
    return beta < 1.0 ? beta : 1.0;
  }
  // The upper end of a bracket of the root of 1 - (1 - beta)^k = rho beta; returns beta there.
  TB_HD double choose_rho(int k) {
    double low = 1.0, high = k;
    for (int i = 0; i < 16 && high > low; ++i) {
      const double middle = 0.5 * (low + high);
      (emits_more(middle, k) ? low : high) = middle;
    }
    return capped_mass(high);
  }
  // Whether 1 - (1 - beta)^k > rho beta. The left side falls from k beta on, so what holds at both
  // ends of bounds of beta holds at beta; only where the ends differ it has to be known exactly.
  TB_HD bool emits_more(double rho, int k) {
    double least = 0.0, most = 0.0;
    if (rows.bound_capped(rho, k, least, most)) {
      const double clear = 1e-12;  // far more than any rounding here
      if (emitted(most, k) - rho * most > clear) return true;
      if (emitted(least, k) - rho * least < -clear) return false;
    }
    const double beta = capped_mass(rho);
    return emitted(beta, k) > rho * beta;
  }

  // Block verification of a chain: every prefix is judged as a whole and the longest accepted one
  // wins. `ratio` is the prefix's min(1, p / q), capped token by token.
  TB_HD void block() {
    int64_t end = 0, kept = 0;
    while (end + 1 < count && parent_of(end + 1) == end && possible(token_of(end + 1))) ++end;
    double ratio = 1.0, kept_ratio = 1.0;
    while (true) {
      const bool held = rows.open(node);
      const double share = held && node < end && !ended() ? take_away(node + 1, ratio) : 0.0;
      if (share == 0.0) {  // the chain ends here
        if (node == 0 || uniform(random(node + 2)) < ratio) {
          kept = node;
          kept_ratio = -1.0;
        }
        break;
      }
      const double rest = static_cast<double>(rows.sum());
      const double all = rest + (1.0 - ratio) * law.row_total;
      if (node > 0 && uniform(random(node + 2)) < (all > 0.0 ? rest / all : 1.0)) {
        kept = node;
        kept_ratio = ratio;
      }
      const double joint = ratio * (rows.weight(token_of(node + 1)) / law.row_total) / share;
      ratio = joint < 1.0 ? joint : 1.0;
      step_to(node + 1);
    }
    length = 0;
    rows.start_path();
    for (int64_t i = 0; i <= kept; ++i) accept(i);
    const int32_t n_nan = rows.n_nan();  // this row is read again
    const bool held = open();
    rows.n_nan() = n_nan;
    if (!held) return finish(-1);
    if (kept_ratio >= 0.0) take_away(kept + 1, kept_ratio);
    finish_from_law(rows.sum());
  }
  // Makes the law of the open row (ratio p - q)+ for the q that the following node was drawn from;
  // returns that node's share of q, 0 if it cannot have been drawn.
  TB_HD double take_away(int64_t following, double ratio) {
    const int64_t row = row_of(following), token = token_of(following);
    rows.update([&] {
      law.reset(rows.total());
      law.scale = ratio;
      if (row == -1) rows.tried()[law.num_banned++] = token;
    });
    if (row < 0) return row == -1 ? 1.0 : 0.0;
    if (use_draft(row) < 0) return 0.0;
    rows.update([&] { law.draft[0].coefficient = law.row_total / law.draft[0].total; });
    return draft_weight<Rows>(p, b, law.draft[0], token) / law.draft[0].total;
  }

  // Typical acceptance: whatever the target finds likely enough is accepted; the deepest node wins,
  // the more probable path on ties. `tried` holds depth and score of the accepted nodes.
  TB_HD void typical() {
    int64_t best = 0;
    rows.update([&] {
      for (int64_t i = 0; i < count; ++i) rows.tried()[i] = -1;
      rows.tried()[0] = pack(1, 0.0f);
    });
    for (int64_t i = 0; i < count; ++i) {
      const int64_t mine = rows.tried()[i];
      if (mine < 0) continue;
      if (ahead(mine, rows.tried()[best])) best = i;
      if (!has_child(i) || !open_typical(i)) continue;
      for (int64_t child = i + 1; child < count; ++child) {
        if (parent_of(child) != i || !possible(token_of(child))) continue;
        const auto p_child = static_cast<float>(rows.weight(token_of(child)) / law.row_total);
        if (!(p_child > law.least)) continue;
        const float score = score_of(mine) + log_fast(p_child);
        rows.update([&] { rows.tried()[child] = pack(depth_of(mine) + 1, score); });
      }
    }
    const int32_t n_nan = rows.n_nan();
    const bool held = open_typical(best, true);
    if (has_child(best) && !ended()) rows.n_nan() = n_nan;  // it was read before
    if (!held) return finish(-1);
    const uint64_t total = rows.sum();
    finish(total == 0 ? rows.best() : draw(total));
  }
  TB_HD static int64_t pack(int64_t depth, float score) { return depth << 32 | to_bits(score); }
  TB_HD static int64_t depth_of(int64_t packed) { return packed >> 32; }
  TB_HD static float score_of(int64_t packed) {
    return from_bits(static_cast<uint32_t>(packed & 0xffffffff));
  }
  TB_HD static bool ahead(int64_t a, int64_t b) {
    return depth_of(a) != depth_of(b) ? depth_of(a) > depth_of(b) : score_of(a) > score_of(b);
  }
  TB_HD bool has_child(int64_t i) const {
    int64_t child = i + 1;
    while (child < count && parent_of(child) != i) ++child;
    return child < count;
  }
  // Goes to node i; false if its row holds no number or nothing may follow it.
  TB_HD bool open_typical(int64_t i, bool last = false) {
    const auto depth = static_cast<int32_t>(depth_of(rows.tried()[i]));
    rows.start_path();
    int64_t at = i;
    for (int32_t j = depth - 1; j >= 0; --j) {
      if (last && rows.leader()) p.path[b * p.nodes + j] = static_cast<int32_t>(at);
      if (possible(token_of(at))) rows.mark(token_of(at));
      at = parent_of(at);
    }
    node = i;
    length = depth;
    if ((ended() && !last) || !rows.open(i)) return false;
    rows.update([&] { law.reset(rows.total()); });
    const auto entropy = static_cast<float>(static_cast<double>(rows.entropy()) / weight_unit);
    const float by_entropy = p.delta * exp_fast(-entropy);
    rows.update([&] {
      law.kind = LawKind::typical;
      law.least = p.epsilon < by_entropy ? p.epsilon : by_entropy;
    });
    return true;
  }
};

}  // namespace
}  // namespace tokenburst
