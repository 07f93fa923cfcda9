// Scratch of the CPU operators.
#pragma once

#include <memory>
#include <new>

#include "hdrops/tensor.h"

namespace hdrops {

// Scratch that begins with a cache line.
struct Aligned {
  static constexpr std::align_val_t line{64};
  void operator()(void* memory) const { operator delete[](memory, line); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Aligned>;
template <class T>
Buffer<T> buffer(int64_t size) {
  const size_t bytes = static_cast<size_t>(size) * sizeof(T);
  Buffer<T> memory(static_cast<T*>(operator new[](bytes, Aligned::line)));
  advise_huge_pages(memory.get(), bytes);
  return memory;
}

}  // namespace hdrops
