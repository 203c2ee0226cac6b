#pragma once

#include <capnp/message.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "schema/step.capnp.h"

namespace troupe::engine::testing {

struct Part {
  std::uint64_t sequence = 0;
  std::uint32_t start_position = 0;
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint32_t> new_blocks;
  bool sample = false;
  std::uint32_t prompt_length = 0;  // of a sequence that starts with this step
  std::uint32_t guesses = 0;        // the last so many of its tokens
};

// A step on the heap, with everything consistent.
struct BuiltStep {
  explicit BuiltStep(const std::vector<Part>& parts, const std::vector<std::uint64_t>& released_sequences = {},
                     std::uint64_t number = 0) {
    step.initFence().setStep(number);
    const auto size = static_cast<unsigned>(parts.size());
    auto sequences = step.initSequences(size);
    auto counts = step.initTokenCounts(size), positions = step.initStartPositions(size);
    auto block_counts = step.initNewBlockCounts(size);
    auto sample = step.initSample(size);
    std::vector<std::uint32_t> tokens, blocks;
    std::vector<Part> starting;
    for (unsigned i = 0; i < size; ++i) {
      const Part& part = parts[i];
      sequences.set(i, part.sequence);
      counts.set(i, static_cast<std::uint32_t>(part.tokens.size()));
      positions.set(i, part.start_position);
      block_counts.set(i, static_cast<std::uint32_t>(part.new_blocks.size()));
      sample.set(i, part.sample);
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
      blocks.insert(blocks.end(), part.new_blocks.begin(), part.new_blocks.end());
      if (part.prompt_length > 0) starting.push_back(part);
    }
    auto flat_tokens = step.initTokens(static_cast<unsigned>(tokens.size()));
    for (unsigned i = 0; i < tokens.size(); ++i) flat_tokens.set(i, tokens[i]);
    auto flat_blocks = step.initNewBlocks(static_cast<unsigned>(blocks.size()));
    for (unsigned i = 0; i < blocks.size(); ++i) flat_blocks.set(i, blocks[i]);
    auto starts = step.initStarts(static_cast<unsigned>(starting.size()));
    for (unsigned i = 0; i < starting.size(); ++i) {
      starts[i].setSequence(starting[i].sequence);
      starts[i].setPromptLength(starting[i].prompt_length);
      starts[i].initSampling().setTemperature(0);
    }
    if (std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.guesses > 0; })) {
      step.initGuessCounts(size);
      for (unsigned i = 0; i < size; ++i) step.getGuessCounts().set(i, parts[i].guesses);
    }
    auto released = step.initReleased(static_cast<unsigned>(released_sequences.size()));
    for (unsigned i = 0; i < released.size(); ++i) released.set(i, released_sequences[i]);
  }

  capnp::MallocMessageBuilder message;
  schema::Step::Builder step = message.initRoot<schema::Step>();
};

}  // namespace troupe::engine::testing
