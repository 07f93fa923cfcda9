// The filters of an image pyramid on the CPU, forward and adjoint.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "hdrops/simd/exposure_fusion.h"

namespace hdrops {

template <class T>
const FusionLoops<T>& fusion_loops() {
  if constexpr (std::is_same_v<T, float>)
    return HDROPS_PICK(fusion_loops_f32);
  else
    return HDROPS_PICK(fusion_loops_f64);
}

// A filter of the pyramid or its adjoint, as taps for every sample near the borders and everywhere
// else.
template <class T>
class Filter {
 public:
  enum class Kind { down, up, down_adjoint, up_adjoint };

  // `fine` samples on the finer level.
  Filter(Kind kind, int64_t fine) {
    const int64_t coarse = math::coarse_size(fine);
    const bool upward = kind == Kind::up || kind == Kind::up_adjoint;
    const bool adjoint = kind == Kind::down_adjoint || kind == Kind::up_adjoint;
    std::vector<std::vector<Tap<T>>> rows(static_cast<size_t>(upward ? fine : coarse));
    for (int64_t i = 0; i < static_cast<int64_t>(rows.size()); ++i) {
      rows[static_cast<size_t>(i)] = upward ? up_taps(i, coarse) : down_taps(i, fine);
    }
    if (adjoint) rows = transposed(rows, upward ? coarse : fine);
    view_.shrink = kind == Kind::down || kind == Kind::up_adjoint;
    view_.gain = kind == Kind::up_adjoint ? T(2) : kind == Kind::down_adjoint ? T(0.5) : T(1);
    view_.outputs = static_cast<int64_t>(rows.size());
    view_.inputs = view_.shrink ? fine : coarse;
    // Away from the borders the adjoint of one filter is the other one, scaled.
    if (view_.shrink) {
      view_.inner_begin = 2;
      view_.inner_end = fine / 2 - 2;
    } else {
      view_.inner_begin = 4;
      view_.inner_end = (fine / 2 - 3) * 2;
    }
    if (view_.inner_end <= view_.inner_begin) view_.inner_begin = view_.inner_end = view_.outputs;
    begin_.push_back(0);
    for (const auto& row : rows) {
      taps_.insert(taps_.end(), row.begin(), row.end());
      begin_.push_back(static_cast<int64_t>(taps_.size()));
    }
  }

  AxisFilter<T> view() const {
    AxisFilter<T> view = view_;
    view.begin = begin_.data();
    view.taps = taps_.data();
    return view;
  }

 private:
  using Row = std::vector<Tap<T>>;

  static void put(Row& row, int64_t index, T weight) {
    for (Tap<T>& tap : row) {
      if (tap.index == index) {
        tap.weight += weight;
        return;
      }
    }
    row.push_back({index, weight});
  }

  static Row down_taps(int64_t i, int64_t fine) {
    constexpr T binomial[] = {T(1.0 / 16), T(4.0 / 16), T(6.0 / 16), T(4.0 / 16), T(1.0 / 16)};
    Row row;
    for (int64_t tap = 0; tap < 5; ++tap)
      put(row, math::mirror(2 * i + tap - 2, fine), binomial[tap]);
    return row;
  }

  static Row up_taps(int64_t i, int64_t coarse) {
    Row row;
    const int64_t at = i / 2;
    if (i % 2 == 0) {
      put(row, math::coarse_neighbour(at - 1, coarse), T(1.0 / 8));
      put(row, at, T(6.0 / 8));
      put(row, math::coarse_neighbour(at + 1, coarse), T(1.0 / 8));
    } else {
      put(row, at, T(0.5));
      put(row, math::coarse_neighbour(at + 1, coarse), T(0.5));
    }
    return row;
  }

  static std::vector<Row> transposed(const std::vector<Row>& rows, int64_t inputs) {
    std::vector<Row> result(static_cast<size_t>(inputs));
    for (size_t i = 0; i < rows.size(); ++i) {
      for (const Tap<T>& tap : rows[i]) {
        result[static_cast<size_t>(tap.index)].push_back({static_cast<int64_t>(i), tap.weight});
      }
    }
    return result;
  }

  AxisFilter<T> view_{};
  std::vector<int64_t> begin_;
  std::vector<Tap<T>> taps_;
};

// One level change of a plane in both directions and their adjoints.
template <class T>
struct Step {
  using Kind = typename Filter<T>::Kind;
  struct Pair {
    Filter<T> rows, columns;
    Pair(Kind kind, int64_t height, int64_t width) : rows(kind, height), columns(kind, width) {}
  };
  Pair down, up;
  std::optional<Pair> down_adjoint, up_adjoint;

  Step(int64_t height, int64_t width, bool backward)
      : down(Kind::down, height, width), up(Kind::up, height, width) {
    if (!backward) return;
    down_adjoint.emplace(Kind::down_adjoint, height, width);
    up_adjoint.emplace(Kind::up_adjoint, height, width);
  }
};

// Fetches what the next row will need: rows are too far apart for the processor to foresee. `write`
// is 1 for a row that will be written.
template <int write, class T>
void prefetch(const T* row, int64_t n) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; i += line) __builtin_prefetch(row + i, write);
}

// Samples begin..end of row y of a filtered plane: down the columns, then along the row. `scratch`
// holds one input row, `pitch` is from row to row of the plane. `begin` is even where the filter
// grows.
template <class T>
void filtered_row(const typename Step<T>::Pair& filter,
                  const T* plane,
                  int64_t pitch,
                  int64_t y,
                  int64_t begin,
                  int64_t end,
                  T* scratch,
                  T* out) {
  const AxisFilter<T> rows = filter.rows.view(), columns = filter.columns.view();
  const auto [from, to] = columns.needed(begin, end);
  const int64_t first = rows.begin[y];
  fusion_loops<T>().combine(
      plane + from, pitch, rows.taps + first, rows.begin[y + 1] - first, to - from, scratch);
  fusion_loops<T>().filter(columns, scratch - from, begin, end, out - begin);
  const int64_t next = rows.taps[rows.begin[y + 1] - 1].index + 1;
  if (next < rows.inputs) prefetch<0>(plane + next * pitch + from, to - from);
}

}  // namespace hdrops
