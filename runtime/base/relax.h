#pragma once

namespace troupe {

// Tells the core that this thread spins, so that it saves power and leaves its sibling the execution units.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace troupe
