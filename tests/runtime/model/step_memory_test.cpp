// "A step takes no memory" (transformer.h), counted: every operator new of this program, in any thread.
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <new>
#include <numeric>
#include <vector>

#include "kernels/select.h"
#include "runtime/collective/solo.h"
#include "runtime/model/quantize.h"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/tiny_model.h"

namespace {

std::atomic<std::size_t> allocations = 0;

void* counted(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace troupe::model::testing {
namespace {

constexpr std::uint32_t kBlockSize = 16;
constexpr std::uint32_t kBlocks = 16;
constexpr std::uint32_t kSequences = 4;

// Sequences of equal length, each in blocks of its own; `rows` new tokens of each.
struct Batch {
  Batch(std::uint32_t computed, std::uint32_t rows) : row_starts{0}, block_table_starts{0} {
    for (std::uint32_t sequence = 0; sequence < kSequences; ++sequence) {
      for (std::uint32_t position = computed; position < computed + rows; ++position) {
        tokens.push_back((7 * position + sequence) % 61);
        positions.push_back(position);
        slots.push_back(sequence * (kBlocks / kSequences) * kBlockSize + position);
      }
      row_starts.push_back(static_cast<std::uint32_t>(tokens.size()));
      logits_rows.push_back(row_starts.back() - 1);
      context_lengths.push_back(computed + rows);
      for (std::uint32_t i = 0; i < kBlocks / kSequences; ++i) {
        block_tables.push_back(sequence * (kBlocks / kSequences) + i);
      }
      block_table_starts.push_back(static_cast<std::uint32_t>(block_tables.size()));
    }
  }
  StepBatch view() const {
    return {tokens, positions, slots, {row_starts, context_lengths, block_tables, block_table_starts}, logits_rows};
  }

  std::vector<std::uint32_t> tokens, positions, slots, row_starts, context_lengths, block_tables, block_table_starts,
      logits_rows;
};

ModelConfig small_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.vocab_size = 61;
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 64;
  config.sliding_windows = {0, 0};
  return config;
}

// Allocations of a prompt and of generation, once the largest step has been seen.
void check(const std::filesystem::path& directory, const ModelConfig& config, kernels::DType kv_dtype) {
  for (const std::string implementation : {"reference", "avx2", "avx512", "avx512_bf16", "amx"}) {
    if (!kernels::select_cpu_implementation(kernels::detect_cpu_features(), implementation).ok()) continue;
    BOOST_TEST_CONTEXT(implementation) {
      auto kernels = kernels::make_cpu_kernels({{0, 0}, implementation});
      if (!kernels.ok()) kernels = kernels::make_cpu_kernels({{}, implementation});  // no core 0 for us
      BOOST_REQUIRE_MESSAGE(kernels.ok(), why(kernels));
      auto group = collective::make_solo_communicator();
      const TransformerOptions options = {.num_blocks = kBlocks,
                                          .block_size = kBlockSize,
                                          .max_batch_tokens = 64,
                                          .max_batch_sequences = kSequences,
                                          .kv_dtype = kv_dtype};
      auto loaded = Transformer::load(directory, config, {0, config.num_layers, config.num_layers, 0, 1}, **kernels,
                                      *group, options);
      BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
      const auto step = [&](const Batch& batch) {
        auto hidden = (*loaded)->forward(batch.view(), {});
        BOOST_REQUIRE_MESSAGE(hidden.ok(), why(hidden));
        auto logits = (*loaded)->logits(*hidden, 0, batch.logits_rows.size());
        BOOST_REQUIRE_MESSAGE(logits.ok(), why(logits));
      };
      step(Batch(0, 16));
      step(Batch(39, 1));
      const Batch prompt(0, 16);
      std::vector<Batch> tokens;
      for (std::uint32_t position = 16; position < 40; ++position) tokens.emplace_back(position, 1);
      const std::size_t before = allocations;
      step(prompt);
      for (const Batch& token : tokens) step(token);
      BOOST_TEST(allocations - before == 0u);
    }
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(step_memory)

BOOST_AUTO_TEST_CASE(a_step_takes_no_memory) {
  const ModelConfig config = small_config();
  for (const kernels::DType dtype : {kernels::DType::kF32, kernels::DType::kBF16}) {
    TemporaryDirectory directory;
    write_model(directory.path(), random_tensors(config, 1, dtype), dtype);
    check(directory.path(), config, dtype == kernels::DType::kF32 ? kernels::DType::kF32 : kernels::DType::kI8);
  }
}

BOOST_AUTO_TEST_CASE(a_step_of_a_quantised_model_takes_no_memory) {
  TemporaryDirectory directory;
  const ModelConfig config = small_config();
  write_model(directory.path(), random_tensors(config, 1, kernels::DType::kBF16), kernels::DType::kBF16);
  write_file(directory / "config.json",
             R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61, "hidden_size": 64,
                 "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16"})");
  for (const QuantFormat format : {QuantFormat::kQ8, QuantFormat::kQ4}) {
    TemporaryDirectory out;
    const auto made = quantize_model(directory.path(), out / "model", format);
    BOOST_REQUIRE_MESSAGE(made.ok(), why(made));
    const auto quantised = load_config(out / "model");
    BOOST_REQUIRE_MESSAGE(quantised.ok(), why(quantised));
    check(out / "model", *quantised, kernels::DType::kF16);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::model::testing
