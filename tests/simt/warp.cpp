// What the lanes of a warp do together: votes, shuffles, reductions and the matrix instructions,
// with the fragment layouts of the PTX manual. The last lane to arrive computes for all.
#include "runtime.h"

#include <simt.h>

#include <algorithm>

namespace simt {
namespace {

enum Kind { kind_sync, kind_shuffle, kind_vote, kind_reduce, kind_load_matrix, kind_multiply_add };
const char* const kind_name[] = {"__syncwarp",  "a shuffle", "a vote",
                                 "a reduction", "ldmatrix",  "mma"};

struct ShuffleArgument {
  Shuffle kind;
  uint64_t value;
  int argument, width;
};
struct VoteArgument {
  Vote kind;
  uint64_t value;
};
struct ReduceArgument {
  Reduce kind;
  unsigned value;
};
struct MatrixArgument {
  uint32_t* r;
  const char* row;
  bool transposed;
};
struct MultiplyArgument {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
  bool bfloat;
};

template <class F>
void each_lane(unsigned lanes, F f) {
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

void complete_sync(Warp& warp, unsigned lanes) {
  Fiber* first = &fibers[(&warp - warps) * warp_size];
  const int begin = block.named ? 0 : first->id;
  const int count = block.named ? block.threads : warp_size;
  uint32_t joined[max_threads];
  memset(joined, 0, count * sizeof *joined);
  each_lane(lanes, [&](int lane) {
    const uint32_t* seen = first[lane].seen + begin;
    for (int k = 0; k < count; ++k) joined[k] = std::max(joined[k], seen[k]);
  });
  each_lane(lanes, [&](int lane) {
    Fiber& f = first[lane];
    memcpy(f.seen + begin, joined, count * sizeof *joined);
    f.seen[f.id] = ++f.clock;
  });
}

void complete_shuffle(Warp& warp, const Pending& p) {
  uint64_t result[warp_size];
  each_lane(p.arrived, [&](int lane) {
    const auto& a = *static_cast<ShuffleArgument*>(warp.argument[lane]);
    const int start = lane & ~(a.width - 1), end = start + a.width;
    int from = lane;
    switch (a.kind) {
      case Shuffle::idx:
        from = start + (a.argument & (a.width - 1));
        break;
      case Shuffle::up:
        from = lane - a.argument < start ? lane : lane - a.argument;
        break;
      case Shuffle::down:
        from = lane + a.argument >= end ? lane : lane + a.argument;
        break;
      case Shuffle::exclusive_or:
        from = (lane ^ a.argument) >= end ? lane : lane ^ a.argument;
        break;
    }
    if (!(p.arrived >> from & 1)) {
      fail(p.where, "lane %d shuffles from lane %d, which takes no part (mask 0x%08x)", lane, from,
           p.arrived);
    }
    result[lane] = static_cast<ShuffleArgument*>(warp.argument[from])->value;
  });
  each_lane(p.arrived, [&](int lane) {
    static_cast<ShuffleArgument*>(warp.argument[lane])->value = result[lane];
  });
}

void complete_vote(Warp& warp, const Pending& p) {
  auto value = [&](int lane) { return static_cast<VoteArgument*>(warp.argument[lane])->value; };
  unsigned ballot = 0;
  uint64_t result[warp_size];
  each_lane(p.arrived, [&](int lane) { ballot |= (value(lane) != 0 ? 1u : 0u) << lane; });
  each_lane(p.arrived, [&](int lane) {
    unsigned same = 0;
    each_lane(p.arrived,
              [&](int other) { same |= (value(other) == value(lane) ? 1u : 0u) << other; });
    switch (static_cast<VoteArgument*>(warp.argument[lane])->kind) {
      case Vote::ballot:
        result[lane] = ballot;
        break;
      case Vote::any:
        result[lane] = ballot != 0;
        break;
      case Vote::all:
        result[lane] = ballot == p.arrived;
        break;
      case Vote::match_any:
        result[lane] = same;
        break;
      case Vote::match_all:
        result[lane] = same == p.arrived ? same : 0;
        break;
    }
  });
  each_lane(p.arrived, [&](int lane) {
    static_cast<VoteArgument*>(warp.argument[lane])->value = result[lane];
  });
}

unsigned combine(Reduce kind, unsigned a, unsigned b) {
  const int sa = static_cast<int>(a), sb = static_cast<int>(b);
  switch (kind) {
    case Reduce::add_u:
    case Reduce::add_s:
      return a + b;
    case Reduce::min_u:
      return std::min(a, b);
    case Reduce::max_u:
      return std::max(a, b);
    case Reduce::min_s:
      return std::min(sa, sb);
    case Reduce::max_s:
      return std::max(sa, sb);
    case Reduce::bit_and:
      return a & b;
    case Reduce::bit_or:
      return a | b;
    case Reduce::bit_xor:
      return a ^ b;
  }
  return 0;
}

void complete_reduce(Warp& warp, const Pending& p) {
  const int first = __builtin_ctz(p.arrived);
  unsigned result = static_cast<ReduceArgument*>(warp.argument[first])->value;
  each_lane(p.arrived & ~(1u << first), [&](int lane) {
    const auto& a = *static_cast<ReduceArgument*>(warp.argument[lane]);
    result = combine(a.kind, result, a.value);
  });
  each_lane(p.arrived,
            [&](int lane) { static_cast<ReduceArgument*>(warp.argument[lane])->value = result; });
}

// Lane l receives, of each matrix, the two values of row l / 4 from column 2 (l % 4) on; with
// .trans those of the transposed matrix.
void complete_load_matrix(Warp& warp, const Pending& p) {
  Fiber* first = &fibers[(&warp - warps) * warp_size];
  Fiber* caller = current;
  auto argument = [&](int lane) { return static_cast<MatrixArgument*>(warp.argument[lane]); };
  each_lane(p.arrived, [&](int lane) {
    current = first + lane;  // each value is read by the lane that gets it
    const MatrixArgument& own = *argument(lane);
    if (reinterpret_cast<uintptr_t>(own.row) % 16) {
      fail(p.where, "misaligned ldmatrix: row address %p is not a multiple of 16", own.row);
    }
    for (int m = 0; m < 4; ++m) {
      uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int along = lane % 4 * 2 + i, across = lane / 4;
        const int row = own.transposed ? along : across, column = own.transposed ? across : along;
        const char* source = argument(m * 8 + row)->row + column * 2;
        if (!block.dynamic.touches(source) && !block.fixed.touches(source)) {
          fail(p.where, "ldmatrix reads outside shared memory, at %p", source);
        }
        check_access(source, 2, Access::read, p.where, nullptr);
        memcpy(&pair[i], source, 2);
      }
      own.r[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
    }
  });
  current = caller;
}

float widen(uint32_t pair, int half, bool bfloat) {
  const uint32_t bits = half ? pair >> 16 : pair & 0xffff;
  if (bfloat) return __uint_as_float(bits << 16);
  const uint16_t narrow = static_cast<uint16_t>(bits);
  _Float16 value;
  memcpy(&value, &narrow, 2);
  return static_cast<float>(value);
}

// mma.m16n8k16: with group g = lane / 4 and t = lane % 4, a[i] holds row g + 8 (i % 2), columns 2t
// and 2t + 1 (+ 8 for i >= 2); b[i] rows 2t, 2t + 1 (+ 8 i) of column g; c[i] row g + 8 (i / 2),
// column 2t + i % 2.
void complete_multiply_add(Warp& warp, const Pending& p) {
  float a[16][16], b[16][8];
  auto argument = [&](int lane) { return static_cast<MultiplyArgument*>(warp.argument[lane]); };
  const bool bfloat = argument(0)->bfloat;
  for (int lane = 0; lane < warp_size; ++lane) {
    const MultiplyArgument& own = *argument(lane);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        a[g + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = widen(own.a[i], half, bfloat);
      }
      for (int i = 0; i < 2; ++i) b[2 * t + half + 8 * i][g] = widen(own.b[i], half, bfloat);
    }
  }
  float sum[16][8];
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) sum[row][column] = a[row][0] * b[0][column];
    for (int k = 1; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) sum[row][column] += a[row][k] * b[k][column];
    }
  }
  each_lane(p.arrived, [&](int lane) {
    float* c = argument(lane)->c;
    for (int i = 0; i < 4; ++i) c[i] += sum[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
  });
}

void complete(Warp& warp, const Pending& p) {
  switch (p.kind) {
    case kind_sync:
      complete_sync(warp, p.arrived);
      break;
    case kind_shuffle:
      complete_shuffle(warp, p);
      break;
    case kind_vote:
      complete_vote(warp, p);
      break;
    case kind_reduce:
      complete_reduce(warp, p);
      break;
    default:
      if (p.arrived != 0xffffffffu) {
        fail(p.where, "%s needs all 32 lanes, mask 0x%08x came", kind_name[p.kind], p.arrived);
      }
      if (p.kind == kind_load_matrix) complete_load_matrix(warp, p);
      if (p.kind == kind_multiply_add) complete_multiply_add(warp, p);
  }
  Fiber* first = &fibers[(&warp - warps) * warp_size];
  each_lane(p.arrived, [&](int lane) { make_ready(first[lane]); });
}

void collective(Kind kind, unsigned mask, void* argument, Where where) {
  Fiber& self = *current;
  Warp& warp = warp_of(self);
  const unsigned bit = 1u << lane_of(self);
  if (!(mask & bit)) {
    fail(where, "%s with mask 0x%08x, which leaves out the calling lane %d", kind_name[kind], mask,
         lane_of(self));
  }
  warp.argument[lane_of(self)] = argument;
  Pending* mine = nullptr;
  for (Pending& p : warp.pending) {
    if (p.mask == mask) mine = &p;
  }
  if (mine && mine->kind != kind) {
    fail(where, "lanes of one mask (0x%08x) meet in different collectives: %s here, %s at %s:%d",
         mask, kind_name[kind], kind_name[mine->kind], mine->where.file, mine->where.line);
  }
  if (!mine) {
    warp.pending.push_back({mask, 0, kind, where});
    mine = &warp.pending.back();
  }
  mine->arrived |= bit;
  if (mine->arrived == (mask & warp.alive)) {
    const Pending done = *mine;
    warp.pending.erase(warp.pending.begin() + (mine - warp.pending.data()));
    complete(warp, done);
    return;
  }
  wait(kind_name[kind], where);
}

}  // namespace

// Lanes that have ended no longer count: the rest may now be complete.
void settle(Warp& warp) {
  for (size_t i = 0; i < warp.pending.size();) {
    const Pending p = warp.pending[i];
    if (p.arrived == (p.mask & warp.alive)) {
      warp.pending.erase(warp.pending.begin() + i);
      complete(warp, p);
    } else {
      ++i;
    }
  }
}

void sync_warp(unsigned mask, Where where) { collective(kind_sync, mask, nullptr, where); }

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int argument, int width,
                 Where where) {
  ShuffleArgument a{kind, value, argument, width};
  collective(kind_shuffle, mask, &a, where);
  return a.value;
}

unsigned vote(Vote kind, unsigned mask, uint64_t value, Where where) {
  VoteArgument a{kind, value};
  collective(kind_vote, mask, &a, where);
  return static_cast<unsigned>(a.value);
}

unsigned reduce(Reduce kind, unsigned mask, unsigned value, Where where) {
  ReduceArgument a{kind, value};
  collective(kind_reduce, mask, &a, where);
  return a.value;
}

void load_matrix(uint32_t (&r)[4], const void* row, bool transposed, Where where) {
  MatrixArgument a{r, static_cast<const char*>(row), transposed};
  collective(kind_load_matrix, 0xffffffffu, &a, where);
}

void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bfloat,
                  Where where) {
  MultiplyArgument argument{c, a, {b0, b1}, bfloat};
  collective(kind_multiply_add, 0xffffffffu, &argument, where);
}

}  // namespace simt
