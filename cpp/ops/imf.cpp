// imf on the CPU: intensity mapping functions by histogram specification, and the weighted fusion
// of eq. 8-12.

#include "hdrops/simd/imf.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "hdrops/buffer.h"
#include "hdrops/imf_checks.h"

namespace hdrops {
namespace {

const ImfLoops& loops() { return HDROPS_PICK(imf_loops); }

// ---- estimate_imf -------------------------------------------------------------------------------

// Histogram specification of one channel at full code resolution: the source level z maps to the
// target level whose mid-quantile equals that of z. Target levels that do not occur are
// interpolated between those that do. Source levels that do not occur are interpolated; before the
// first and after the last trusted one the map continues in proportion to z. Levels matched to
// `saturated` (8-bit units) or more carry no information on the target and are not trusted.
void specify(
    const int64_t* source, const int64_t* target, int32_t codes, double saturated, double* map) {
  int64_t total_source = 0, total_target = 0;
  for (int32_t z = 0; z < codes; ++z) {
    total_source += source[z];
    total_target += target[z];
  }
  const double limit = saturated * (codes - 1) / 255.0;
  const auto next_occupied = [&](int32_t z) {
    while (z < codes && target[z] == 0) ++z;
    return z;
  };

  int64_t below_source = 0;
  int32_t lower = next_occupied(0);
  int64_t below_lower = 0;
  int32_t upper = next_occupied(lower + 1);
  int32_t previous = -1, last_trusted = -1, first = -1;
  double previous_value = 0;
  for (int32_t z = 0; z < codes; ++z) {
    if (source[z] == 0) continue;
    const double quantile = math::mid_quantile(below_source, source[z], total_source);
    below_source += source[z];
    while (upper < codes &&
           math::mid_quantile(below_lower + target[lower], target[upper], total_target) <=
               quantile) {
      below_lower += target[lower];
      lower = upper;
      upper = next_occupied(upper + 1);
    }
    double value = lower;
    const double at_lower = math::mid_quantile(below_lower, target[lower], total_target);
    if (upper < codes && quantile > at_lower) {
      const double at_upper =
          math::mid_quantile(below_lower + target[lower], target[upper], total_target);
      value += (upper - lower) * (quantile - at_lower) / (at_upper - at_lower);
    }
    map[z] = value;
    if (first < 0) first = z;
    for (int32_t gap = previous + 1; previous >= 0 && gap < z; ++gap) {
      map[gap] = previous_value + (value - previous_value) * (gap - previous) / (z - previous);
    }
    previous = z;
    previous_value = value;
    if (z > 0 && value > 0 && value < limit) last_trusted = z;
  }
  for (int32_t z = 0; z < first; ++z) map[z] = map[first] * z / first;
  const int32_t last = last_trusted > 0 ? last_trusted : previous;
  for (int32_t z = last + 1; z < codes; ++z) {
    const double matched = z < previous ? map[z] : previous_value;
    map[z] = last > 0 ? std::max(std::min(matched, limit), map[last] * z / last) : matched;
  }
}

Tensor estimate_imf(const Tensor& source_in,
                    const Tensor& target_in,
                    int64_t levels,
                    double saturated) {
  check_histogram(source_in, target_in, levels);
  const Tensor source = torch::stable::contiguous(source_in);
  const Tensor target = torch::stable::contiguous(target_in);
  const int64_t planes = source.size(0) * source.size(1);
  const bool bytes = source.scalar_type() == ScalarType::Byte;
  const int32_t codes = bytes ? 256 : 65536;
  Tensor out = allocate({source.size(0), source.size(1), levels}, ScalarType::Float, source);
  if (planes == 0) return out;

  // Tasks: every plane of both images in pieces, so that one large image keeps all threads busy.
  // Counts are integers: the sum does not depend on how the pieces fall.
  const int64_t pieces = std::clamp<int64_t>(torch::stable::get_num_threads() / planes + 1, 1, 16);
  const int64_t tasks = 2 * planes * pieces;
  const auto counts = std::make_unique<int64_t[]>(static_cast<size_t>(tasks * codes));
  const auto histogram = [&](const Tensor& image, int64_t plane, int64_t piece, int64_t* to) {
    const int64_t size = image.size(2) * image.size(3);
    const int64_t step = (size + pieces - 1) / pieces;
    const int64_t begin = std::min(size, piece * step);
    const int64_t length = std::min(size, begin + step) - begin;
    const int64_t offset = plane * size + begin;
    if (bytes) {
      loops().histogram_u8(image.const_data_ptr<uint8_t>() + offset, length, to);
    } else {
      loops().histogram_u16(
          static_cast<const uint16_t*>(image.const_data_ptr()) + offset, length, to);
    }
  };
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / (2 * pieces), which = task / pieces % 2, piece = task % pieces;
      histogram(which == 0 ? source : target, plane, piece, counts.get() + task * codes);
    }
  });

  float* result = out.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, planes, 1, [&](int64_t begin, int64_t end) {
    const auto map = std::make_unique<double[]>(static_cast<size_t>(codes));
    for (int64_t plane = begin; plane < end; ++plane) {
      int64_t* both = counts.get() + plane * 2 * pieces * codes;
      for (int64_t which = 0; which < 2; ++which) {
        int64_t* sum = both + which * pieces * codes;
        for (int64_t piece = 1; piece < pieces; ++piece) {
          for (int32_t z = 0; z < codes; ++z) sum[z] += sum[piece * codes + z];
        }
      }
      specify(both, both + pieces * codes, codes, saturated, map.get());
      const double to_units = 255.0 / (codes - 1);
      for (int64_t level = 0; level < levels; ++level) {
        const double position =
            static_cast<double>(level) * (codes - 1) / static_cast<double>(levels - 1);
        const auto at = math::table_position(position, codes);
        result[plane * levels + level] =
            static_cast<float>(to_units * math::interpolate(map.get(), at));
      }
    }
  });
  return out;
}

// ---- imf_fuse -----------------------------------------------------------------------------------

// Below this many pixels for one pair of tables, evaluating each pixel is cheaper than filling a
// joint table.
constexpr int64_t joint_worthwhile = 1 << 17;
constexpr int64_t grain = 1 << 15;
constexpr int64_t joint_size = 65536;

// One pair of tables and the planes it applies to: one channel of one image, or all of a batch that
// shares it.
template <class T>
struct Share {
  ImfChannel<T> channel;
  std::vector<int64_t> planes;
};

template <class T>
std::vector<Share<T>> shares(const ImfProblem& p,
                             const Tensor& imf_dark,
                             const Tensor& imf_bright,
                             const math::Ramp<T>& low,
                             const math::Ramp<T>& high) {
  const bool by_image = p.dark.stride_n != 0 || p.bright.stride_n != 0;
  const bool by_channel = p.dark.stride_c != 0 || p.bright.stride_c != 0;
  const int64_t images = by_image ? p.n : 1, channels = by_channel ? p.c : 1;
  std::vector<Share<T>> result;
  result.reserve(static_cast<size_t>(images * channels));
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      result.push_back(
          {{imf_dark.const_data_ptr<T>() + n * p.dark.stride_n + c * p.dark.stride_c,
            imf_bright.const_data_ptr<T>() + n * p.bright.stride_n + c * p.bright.stride_c,
            static_cast<int32_t>(p.dark.levels),
            static_cast<int32_t>(p.bright.levels),
            low,
            high},
           {}});
    }
  }
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t c = 0; c < p.c; ++c) {
      const int64_t share = (by_image ? n : 0) * channels + (by_channel ? c : 0);
      result[static_cast<size_t>(share)].planes.push_back(n * p.c + c);
    }
  }
  return result;
}

// A plane and the share that it belongs to.
struct Assigned {
  size_t share;
  int64_t plane;
};

template <class T>
std::vector<Assigned> assignments(const std::vector<Share<T>>& all) {
  std::vector<Assigned> result;
  for (size_t share = 0; share < all.size(); ++share) {
    for (const int64_t plane : all[share].planes) result.push_back({share, plane});
  }
  return result;
}

// Runs kernel(begin, length, share) over the pixels of all planes, in parallel over pixels.
template <class Kernel>
void over_planes(const std::vector<Assigned>& planes, int64_t plane_size, const Kernel& kernel) {
  const int64_t total = static_cast<int64_t>(planes.size()) * plane_size;
  torch::stable::parallel_for(0, total, grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end;) {
      const int64_t within = at % plane_size;
      const int64_t length = std::min(end - at, plane_size - within);
      const Assigned& assigned = planes[static_cast<size_t>(at / plane_size)];
      kernel(assigned.plane * plane_size + within, length, assigned.share);
      at += length;
    }
  });
}

template <class In, class Out, class T>
void fuse_each(const std::vector<Share<T>>& all,
               int64_t plane_size,
               const In* dark,
               const In* bright,
               Out* out,
               ImfFuse<In, Out, T> fuse) {
  over_planes(assignments(all), plane_size, [&](int64_t at, int64_t length, size_t share) {
    fuse(dark + at, bright + at, length, all[share].channel, out + at);
  });
}

// uint8 images by byte permutations, where the level and the thresholds of all shares allow it.
bool fuse_packed(const std::vector<Share<float>>& all,
                 int64_t plane_size,
                 const uint8_t* dark,
                 const uint8_t* bright,
                 uint8_t* out) {
  const ImfLoops& loop = loops();
  if (loop.pack == nullptr) return false;
  const int64_t bytes = (loop.packed_bytes + 63) / 64 * 64;
  const Buffer<uint8_t> storage = buffer<uint8_t>(bytes * static_cast<int64_t>(all.size()));
  const auto packed = [&](size_t share) {
    return reinterpret_cast<ImfPacked*>(storage.get() + static_cast<int64_t>(share) * bytes);
  };
  for (size_t share = 0; share < all.size(); ++share) {
    if (!loop.pack(all[share].channel, packed(share))) return false;
  }
  over_planes(assignments(all), plane_size, [&](int64_t at, int64_t length, size_t share) {
    loop.fuse_packed(dark + at, bright + at, length, *packed(share), out + at);
  });
  return true;
}

// uint8 images: by byte permutations where that is possible, else one joint table of both codes for
// every share of many pixels, else pixel by pixel.
template <class Out>
void fuse_bytes(const std::vector<Share<float>>& all,
                int64_t plane_size,
                const uint8_t* dark,
                const uint8_t* bright,
                Out* out) {
  constexpr bool to_bytes = std::is_same_v<Out, uint8_t>;
  const ImfLoops& loop = loops();
  if constexpr (to_bytes) {
    if (fuse_packed(all, plane_size, dark, bright, out)) return;
  }
  // All shares have equally many planes.
  if (static_cast<int64_t>(all.front().planes.size()) * plane_size < joint_worthwhile) {
    if constexpr (to_bytes)
      return fuse_each(all, plane_size, dark, bright, out, loop.fuse_u8);
    else
      return fuse_each(all, plane_size, dark, bright, out, loop.fuse_u8_f32);
  }
  const auto joint = std::make_unique_for_overwrite<Out[]>(joint_size);
  for (const Share<float>& share : all) {
    torch::stable::parallel_for(0, 256, 32, [&](int64_t begin, int64_t end) {
      const auto first = static_cast<int32_t>(begin), last = static_cast<int32_t>(end);
      if constexpr (to_bytes)
        loop.joint_u8(share.channel, first, last, joint.get());
      else
        loop.joint_u8_f32(share.channel, first, last, joint.get());
    });
    over_planes(assignments<float>({share}), plane_size, [&](int64_t at, int64_t length, size_t) {
      if constexpr (to_bytes)
        loop.lookup_u8(dark + at, bright + at, length, joint.get(), out + at);
      else
        loop.lookup_u8_f32(dark + at, bright + at, length, joint.get(), out + at);
    });
  }
}

void fuse_into(const Tensor& dark_in,
               const Tensor& bright_in,
               const Tensor& imf_dark_in,
               const Tensor& imf_bright_in,
               const std::vector<double>& low,
               const std::vector<double>& high,
               const Tensor& out) {
  const ImfProblem p = check_imf(dark_in, bright_in, imf_dark_in, imf_bright_in);
  const auto low_f32 = ramp<float>("low", low), high_f32 = ramp<float>("high", high);
  const Tensor dark = torch::stable::contiguous(dark_in);
  const Tensor bright = torch::stable::contiguous(bright_in);
  const Tensor imf_dark = torch::stable::contiguous(imf_dark_in);
  const Tensor imf_bright = torch::stable::contiguous(imf_bright_in);
  if (dark.numel() == 0) return;
  const ScalarType dtype = dark.scalar_type();
  const bool to_float = is_code(dtype) && out.scalar_type() == ScalarType::Float;
  const ImfLoops& loop = loops();
  const void* d = dark.const_data_ptr();
  const void* b = bright.const_data_ptr();
  void* o = out.mutable_data_ptr();
  if (dtype == ScalarType::Double) {
    const auto low_f64 = ramp<double>("low", low), high_f64 = ramp<double>("high", high);
    return fuse_each(shares<double>(p, imf_dark, imf_bright, low_f64, high_f64),
                     p.plane,
                     static_cast<const double*>(d),
                     static_cast<const double*>(b),
                     static_cast<double*>(o),
                     loop.fuse_f64);
  }
  const auto all = shares<float>(p, imf_dark, imf_bright, low_f32, high_f32);
  const auto each = [&]<class In, class Out>(ImfFuse<In, Out, float> fuse) {
    fuse_each(all,
              p.plane,
              static_cast<const In*>(d),
              static_cast<const In*>(b),
              static_cast<Out*>(o),
              fuse);
  };
  switch (dtype) {
    case ScalarType::Byte: {
      const auto* bytes_d = static_cast<const uint8_t*>(d);
      const auto* bytes_b = static_cast<const uint8_t*>(b);
      if (to_float)
        fuse_bytes(all, p.plane, bytes_d, bytes_b, static_cast<float*>(o));
      else
        fuse_bytes(all, p.plane, bytes_d, bytes_b, static_cast<uint8_t*>(o));
      break;
    }
    case ScalarType::UInt16:
      if (to_float)
        each(loop.fuse_u16_f32);
      else
        each(loop.fuse_u16);
      break;
    case ScalarType::Half:
      each(loop.fuse_f16);
      break;
    case ScalarType::BFloat16:
      each(loop.fuse_bf16);
      break;
    default:
      each(loop.fuse_f32);
  }
}

Tensor imf_fuse(const Tensor& dark,
                const Tensor& bright,
                const Tensor& imf_dark,
                const Tensor& imf_bright,
                const std::vector<double> low,
                const std::vector<double> high,
                std::optional<ScalarType> dtype) {
  check_image_dtype("imf_fuse", "dark", dark);
  const Tensor out =
      allocate(shape_of(dark), check_output_dtype("imf_fuse", dark.scalar_type(), dtype), dark);
  fuse_into(dark, bright, imf_dark, imf_bright, low, high, out);
  return out;
}

void imf_fuse_out(const Tensor& dark,
                  const Tensor& bright,
                  const Tensor& imf_dark,
                  const Tensor& imf_bright,
                  const std::vector<double> low,
                  const std::vector<double> high,
                  Tensor out) {
  check_image_dtype("imf_fuse", "dark", dark);
  check_out("imf_fuse", out, shape_of(dark), dark);
  check_output_dtype("imf_fuse", dark.scalar_type(), out.scalar_type());
  fuse_into(dark, bright, imf_dark, imf_bright, low, high, out);
}

// ---- imf_fuse_backward --------------------------------------------------------------------------

template <class In, class T>
void backward_planes(const ImfProblem& p,
                     const Tensor& grad,
                     const Tensor& dark,
                     const Tensor& bright,
                     const std::vector<Share<T>>& all,
                     const Tensor& imf_dark,
                     const Tensor& imf_bright,
                     ImfBackward<In, T> backward,
                     T* grad_dark,
                     T* grad_bright,
                     T* grad_imf_dark,
                     T* grad_imf_bright) {
  // Table gradients are sums over pixels: each chunk of a fixed size sums for itself and the chunks
  // are added in order, so the result does not depend on the number of threads.
  constexpr int64_t chunk_pixels = 1 << 16;
  const int64_t chunks = (p.plane + chunk_pixels - 1) / chunk_pixels;
  const auto levels_dark = static_cast<size_t>(p.dark.levels),
             levels_bright = static_cast<size_t>(p.bright.levels);
  const size_t levels = levels_dark + levels_bright;
  const int64_t batch = std::max<int64_t>(1, (int64_t{1} << 22) / static_cast<int64_t>(levels));
  const std::vector<Assigned> planes = assignments(all);
  const int64_t tasks = static_cast<int64_t>(planes.size()) * chunks;
  const auto assigned = [&](int64_t task) { return planes[static_cast<size_t>(task / chunks)]; };
  for (int64_t first = 0; first < tasks; first += batch) {
    const int64_t count = std::min(batch, tasks - first);
    const auto sums = std::make_unique<T[]>(static_cast<size_t>(count) * levels);
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t within = (first + task) % chunks * chunk_pixels;
        const auto [share, plane] = assigned(first + task);
        const int64_t at = plane * p.plane + within;
        T* sum = sums.get() + static_cast<size_t>(task) * levels;
        backward(grad.const_data_ptr<T>() + at,
                 static_cast<const In*>(dark.const_data_ptr()) + at,
                 static_cast<const In*>(bright.const_data_ptr()) + at,
                 std::min(chunk_pixels, p.plane - within),
                 all[share].channel,
                 {grad_dark == nullptr ? nullptr : grad_dark + at,
                  grad_bright == nullptr ? nullptr : grad_bright + at,
                  sum,
                  sum + levels_dark});
      }
    });
    for (int64_t task = 0; task < count; ++task) {
      const ImfChannel<T>& channel = all[assigned(first + task).share].channel;
      T* to_dark = grad_imf_dark + (channel.dark - imf_dark.const_data_ptr<T>());
      T* to_bright = grad_imf_bright + (channel.bright - imf_bright.const_data_ptr<T>());
      const T* sum = sums.get() + static_cast<size_t>(task) * levels;
      for (size_t i = 0; i < levels_dark; ++i) to_dark[i] += sum[i];
      for (size_t i = 0; i < levels_bright; ++i) to_bright[i] += sum[levels_dark + i];
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> imf_fuse_backward(const Tensor& grad_in,
                                                             const Tensor& dark_in,
                                                             const Tensor& bright_in,
                                                             const Tensor& imf_dark_in,
                                                             const Tensor& imf_bright_in,
                                                             const std::vector<double> low,
                                                             const std::vector<double> high) {
  const ImfProblem p = check_imf(dark_in, bright_in, imf_dark_in, imf_bright_in);
  const ScalarType image = dark_in.scalar_type();
  const ScalarType compute = compute_dtype(image);
  STD_TORCH_CHECK(shape_of(grad_in) == shape_of(dark_in),
                  "imf_fuse_backward: grad must have the shape of the images, got ",
                  shape_text(grad_in));
  // Half-precision images are converted once: their gradients are formed in float32.
  const ScalarType load = is_code(image) ? image : compute;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, compute));
  const Tensor dark = torch::stable::contiguous(torch::stable::to(dark_in, load));
  const Tensor bright = torch::stable::contiguous(torch::stable::to(bright_in, load));
  const Tensor imf_dark = torch::stable::contiguous(imf_dark_in);
  const Tensor imf_bright = torch::stable::contiguous(imf_bright_in);
  const std::vector<int64_t> shape = is_code(image) ? std::vector<int64_t>{0} : shape_of(dark);
  Tensor grad_dark = allocate(shape, compute, dark);
  Tensor grad_bright = allocate(shape, compute, dark);
  Tensor grad_imf_dark = allocate(shape_of(imf_dark), compute, dark);
  Tensor grad_imf_bright = allocate(shape_of(imf_bright), compute, dark);
  torch::stable::zero_(grad_imf_dark);
  torch::stable::zero_(grad_imf_bright);
  if (dark.numel() > 0) {
    const auto run = [&]<class In, class T>(ImfBackward<In, T> backward) {
      const auto all =
          shares<T>(p, imf_dark, imf_bright, ramp<T>("low", low), ramp<T>("high", high));
      backward_planes<In, T>(p,
                             grad,
                             dark,
                             bright,
                             all,
                             imf_dark,
                             imf_bright,
                             backward,
                             is_code(image) ? nullptr : grad_dark.mutable_data_ptr<T>(),
                             is_code(image) ? nullptr : grad_bright.mutable_data_ptr<T>(),
                             grad_imf_dark.mutable_data_ptr<T>(),
                             grad_imf_bright.mutable_data_ptr<T>());
    };
    if (image == ScalarType::Byte)
      run(loops().backward_u8);
    else if (image == ScalarType::UInt16)
      run(loops().backward_u16);
    else if (compute == ScalarType::Double)
      run(loops().backward_f64);
    else
      run(loops().backward_f32);
  }
  if (!is_code(image) && image != compute) {
    grad_dark = torch::stable::to(grad_dark, image);
    grad_bright = torch::stable::to(grad_bright, image);
  }
  return {grad_dark, grad_bright, grad_imf_dark, grad_imf_bright};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("estimate_imf", TORCH_BOX(&hdrops::estimate_imf));
  m.impl("imf_fuse", TORCH_BOX(&hdrops::imf_fuse));
  m.impl("imf_fuse_out", TORCH_BOX(&hdrops::imf_fuse_out));
  m.impl("imf_fuse_backward", TORCH_BOX(&hdrops::imf_fuse_backward));
}
