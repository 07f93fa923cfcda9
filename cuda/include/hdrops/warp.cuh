// The threads that run together.
#pragma once

#include <cstdint>

namespace hdrops {

constexpr int32_t warp_size = 32;
constexpr uint32_t all_lanes = 0xffffffffu;

}  // namespace hdrops
