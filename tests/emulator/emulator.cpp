#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_runtime.h"

namespace emulator {

Index thread, block, threads, blocks;

namespace {

constexpr size_t stack_bytes = 256 << 10, lane_bytes = 64;

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  bool ended;
};

// Opens when `wanted` threads wait, and closes behind them.
struct Barrier {
  unsigned waiting = 0;
  uint64_t openings = 0;
};

struct Warp {
  Barrier barrier;
  alignas(lane_bytes) char memory[lanes * lane_bytes];
};

std::vector<Fibre> fibres;
std::vector<Warp> warps;
Barrier of_block;
ucontext_t scheduler;
const std::function<void()>* kernel;
bool moved;  // whether a thread ended or a barrier opened in this round

void wait(Barrier& barrier, unsigned wanted) {
  const uint64_t before = barrier.openings;
  if (++barrier.waiting == wanted) {
    barrier.waiting = 0;
    ++barrier.openings;
    moved = true;
    return;
  }
  Fibre& own = fibres[thread.x];
  while (barrier.openings == before) swapcontext(&own.context, &scheduler);
}

void run_thread() {
  (*kernel)();
  Fibre& own = fibres[thread.x];
  own.ended = true;
  swapcontext(&own.context, &scheduler);
}

}  // namespace

void wait_for_block() { wait(of_block, threads.x); }
void wait_for_warp() { wait(warps[thread.x / lanes].barrier, lanes); }
void* warp_memory() { return warps[thread.x / lanes].memory; }

void run(unsigned block_count, unsigned thread_count, const std::function<void()>& body) {
  kernel = &body;
  blocks.x = block_count;
  threads.x = thread_count;
  if (fibres.size() < thread_count) fibres.resize(thread_count);
  warps.resize((thread_count + lanes - 1) / lanes);
  for (block.x = 0; block.x < block_count; ++block.x) {
    of_block = {};
    for (Warp& warp : warps) warp.barrier = {};
    for (unsigned t = 0; t < thread_count; ++t) {
      Fibre& fibre = fibres[t];
      fibre.ended = false;
      fibre.stack.resize(stack_bytes);
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.data();
      fibre.context.uc_stack.ss_size = fibre.stack.size();
      fibre.context.uc_link = &scheduler;
      makecontext(&fibre.context, run_thread, 0);
    }
    // Every other block in reverse: what hangs on the order of threads shows.
    const bool reversed = block.x % 2 == 1;
    for (unsigned running = thread_count; running > 0;) {
      moved = false;
      for (unsigned turn = 0; turn < thread_count; ++turn) {
        thread.x = reversed ? thread_count - 1 - turn : turn;
        if (fibres[thread.x].ended) continue;
        swapcontext(&scheduler, &fibres[thread.x].context);
        if (!fibres[thread.x].ended) continue;
        --running;
        moved = true;
      }
      if (running > 0 && !moved) {
        std::fprintf(stderr, "threads of a kernel wait for others that never come\n");
        std::abort();
      }
    }
  }
}

}  // namespace emulator
