// mtb on the CPU: the shift between two exposures by median threshold bitmaps, coarse to fine.

#include "hdrops/simd/mtb.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>

#include "hdrops/buffer.h"
#include "hdrops/mtb_checks.h"
#include "hdrops/simd/imf.h"

namespace hdrops {
namespace {

const MtbLoops& loops() { return HDROPS_PICK(mtb_loops); }

// Pixels of a strip of the image: long enough to pay for its histogram.
constexpr int64_t strip_pixels = 1 << 22;
// Pixels of a level that a thread takes at least.
constexpr int64_t grain_pixels = 1 << 20;

// Both images of a pair.
constexpr int32_t of_reference = 0, of_image = 1;

// The levels of one image of a pair, grey.
struct Pyramid {
  const void* source;  // the first plane
  // Own memory; null on the finest level where the image itself holds the codes.
  std::array<uint8_t*, mtb_most_levels> own;
  std::array<math::MtbLimits, mtb_most_levels> limits;

  const uint8_t* codes(int32_t k) const {
    return own[k] != nullptr ? own[k] : static_cast<const uint8_t*>(source);
  }
};

// The bitmaps of a level: rows begin `stride` words apart.
struct Bitmaps {
  uint64_t *above, *below;
  int64_t stride;

  MtbRow row(int64_t y) const { return {above + y * stride, below + y * stride}; }
};

class Search {
 public:
  Search(const MtbProblem& problem, Storage storage) : p_(problem), storage_(storage) {
    const bool converts = storage != Storage::u8 || p_.c == 3;
    int64_t size = converts ? p_.pixels() : 0;
    for (int32_t k = 1; k < p_.levels; ++k) size += height(k) * width(k);
    codes_ = buffer<uint8_t>(2 * size);
    for (int32_t side : {of_reference, of_image}) {
      uint8_t* next = codes_.get() + side * size;
      for (int32_t k = 0; k < p_.levels; ++k) {
        const bool borrowed = k == 0 && !converts;
        sides_[side].own[k] = borrowed ? nullptr : next;
        if (!borrowed) next += height(k) * width(k);
      }
    }
    // A shift by the width or more leaves nothing to compare.
    const int64_t furthest = std::min((int64_t{1} << p_.levels) - 1, p_.width);
    pad_ = furthest / 64 + 2;
    bits_ = buffer<uint64_t>(4 * p_.height * (words(0) + 2 * pad_));
  }

  // The numbers of one pair.
  void operator()(const void* reference, const void* image, int64_t* numbers) {
    sides_[of_reference].source = reference;
    sides_[of_image].source = image;
    survey();
    int64_t dy = 0, dx = 0, errors = 0, compared = 0;
    for (int32_t k = p_.levels - 1; k >= 0; --k) {
      dy *= 2;
      dx *= 2;
      const bool decides =
          sides_[of_reference].limits[k].informative && sides_[of_image].limits[k].informative;
      if (!decides) continue;
      draw(k);
      const auto counts = count(k, dy, dx);
      const int32_t best = math::mtb_best(counts.data());
      dy += math::mtb_step_y(best);
      dx += math::mtb_step_x(best);
      if (k > 0) continue;
      errors = counts[best];
      compared = count_compared(dy, dx);
    }
    const int64_t result[mtb_numbers] = {dy, dx, errors, compared};
    std::copy(std::begin(result), std::end(result), numbers);
  }

 private:
  int64_t height(int32_t k) const { return p_.height >> k; }
  int64_t width(int32_t k) const { return p_.width >> k; }
  int64_t words(int32_t k) const {
    return math::rounded_up(math::ceil_div(width(k), 64), mtb_word_step);
  }
  int64_t grain(int32_t k) const { return std::max<int64_t>(1, grain_pixels / width(k)); }

  // Codes and limits of all levels of both images, in one pass over strips of rows that end
  // together in every level.
  void survey() {
    const int64_t unit = int64_t{1} << (p_.levels - 1);
    const int64_t wanted = std::max(math::ceil_div(torch::stable::get_num_threads(), 2),
                                    math::ceil_div(p_.pixels(), strip_pixels));
    const int64_t rows = math::rounded_up(math::ceil_div(p_.height, wanted), unit);
    const int64_t pieces = math::ceil_div(p_.height, rows);
    const int64_t table = 256 * p_.levels;
    const auto counts = std::make_unique<int64_t[]>(static_cast<size_t>(2 * pieces * table));
    torch::stable::parallel_for(0, 2 * pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % pieces * rows;
        survey_rows(sides_[task / pieces],
                    first,
                    std::min(p_.height, first + rows),
                    counts.get() + task * table);
      }
    });
    for (int32_t side : {of_reference, of_image}) {
      int64_t* sum = counts.get() + side * pieces * table;
      for (int64_t piece = 1; piece < pieces; ++piece) {
        for (int64_t i = 0; i < table; ++i) sum[i] += sum[piece * table + i];
      }
      for (int32_t k = 0; k < p_.levels; ++k) {
        sides_[side].limits[k] = math::mtb_limits(sum + 256 * k, height(k) * width(k), p_.exclude);
      }
    }
  }

  void survey_rows(const Pyramid& side, int64_t begin, int64_t end, int64_t* counts) const {
    const auto histogram = HDROPS_PICK(imf_loops).histogram_u8;
    const int64_t at = begin * p_.width, pixels = (end - begin) * p_.width;
    if (side.own[0] != nullptr) {
      loops().grey(side.source, storage_, p_.c, p_.pixels(), at, pixels, side.own[0] + at);
    }
    histogram(side.codes(0) + at, pixels, counts);
    for (int32_t k = 1; k < p_.levels; ++k) {
      const int64_t from = begin >> k, to = end >> k;
      for (int64_t y = from; y < to; ++y) {
        loops().pick(
            side.codes(k - 1) + 2 * y * width(k - 1), width(k), side.own[k] + y * width(k));
      }
      histogram(side.codes(k) + from * width(k), (to - from) * width(k), counts + 256 * k);
    }
  }

  // The bitmaps of level k of one image, in the same memory for all levels.
  Bitmaps bitmaps(int32_t k, int32_t side) const {
    const int64_t stride = words(k) + 2 * pad_, size = height(k) * stride;
    uint64_t* above = bits_.get() + 2 * side * size + pad_;
    return {above, above + size, stride};
  }

  void draw(int32_t k) {
    torch::stable::parallel_for(0, 2 * height(k), grain(k), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto side = static_cast<int32_t>(i / height(k));
        const int64_t y = i % height(k);
        const Bitmaps to = bitmaps(k, side);
        loops().bitmap(sides_[side].codes(k) + y * width(k),
                       width(k),
                       sides_[side].limits[k],
                       words(k),
                       pad_,
                       to.above + y * to.stride,
                       to.below + y * to.stride);
      }
    });
  }

  // Errors of the nine shifts about (dy, dx) on level k.
  std::array<int64_t, math::mtb_candidates> count(int32_t k, int64_t dy, int64_t dx) const {
    const Bitmaps reference = bitmaps(k, of_reference), image = bitmaps(k, of_image);
    int64_t shifts[3];
    for (int64_t i = 0; i < 3; ++i) shifts[i] = within(k, dx + i - 1);
    std::array<std::atomic<int64_t>, math::mtb_candidates> sums{};
    torch::stable::parallel_for(0, height(k), grain(k), [&](int64_t begin, int64_t end) {
      int64_t errors[3][3] = {};  // by step down, then to the right
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t j = 0; j < 3; ++j) {
          const int64_t from = y - dy - (j - 1);
          if (from < 0 || from >= height(k)) continue;
          loops().differences(reference.row(y), image.row(from), words(k), shifts, errors[j]);
        }
      }
      for (int32_t i = 0; i < math::mtb_candidates; ++i)
        sums[i] += errors[math::mtb_step_y(i) + 1][math::mtb_step_x(i) + 1];
    });
    std::array<int64_t, math::mtb_candidates> result;
    std::copy(sums.begin(), sums.end(), result.begin());
    return result;
  }

  int64_t count_compared(int64_t dy, int64_t dx) const {
    const Bitmaps reference = bitmaps(0, of_reference), image = bitmaps(0, of_image);
    std::atomic<int64_t> sum{0};
    torch::stable::parallel_for(0, p_.height, grain(0), [&](int64_t begin, int64_t end) {
      int64_t pixels = 0;
      for (int64_t y = std::max(begin, dy); y < std::min(end, p_.height + dy); ++y) {
        pixels += loops().compared(reference.row(y), image.row(y - dy), words(0), within(0, dx));
      }
      sum += pixels;
    });
    return sum;
  }

  // A shift no further than the padding serves.
  int64_t within(int32_t k, int64_t dx) const { return std::clamp(dx, -width(k), width(k)); }

  MtbProblem p_;
  Storage storage_;
  Pyramid sides_[2];
  Buffer<uint8_t> codes_;
  Buffer<uint64_t> bits_;
  int64_t pad_;
};

Tensor mtb_shift(const Tensor& image_in,
                 const Tensor& reference_in,
                 int64_t levels,
                 int64_t exclude) {
  const MtbProblem p = check_mtb(image_in, reference_in, levels, exclude);
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor reference = torch::stable::contiguous(reference_in);
  Tensor out = allocate({p.n, mtb_numbers}, ScalarType::Long, image);
  if (p.n == 0) return out;
  auto* numbers = out.mutable_data_ptr<int64_t>();
  if (p.levels == 0) {
    std::fill(numbers, numbers + p.n * mtb_numbers, 0);
    return out;
  }
  const Storage storage = storage_of(image.scalar_type());
  const int64_t bytes = p.c * p.pixels() * bytes_of(storage);
  const auto run = [&](int64_t begin, int64_t end) {
    Search search(p, storage);
    for (int64_t i = begin; i < end; ++i) {
      search(static_cast<const char*>(reference.const_data_ptr()) + i * bytes,
             static_cast<const char*>(image.const_data_ptr()) + i * bytes,
             numbers + i * mtb_numbers);
    }
  };
  // Pairs are shared by the threads where there are enough of them, else the rows of each.
  if (p.n >= torch::stable::get_num_threads())
    torch::stable::parallel_for(0, p.n, 1, run);
  else
    run(0, p.n);
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) { m.impl("mtb_shift", TORCH_BOX(&hdrops::mtb_shift)); }
