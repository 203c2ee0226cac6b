// Feeds arbitrary bytes as a GGUF file. What is accepted must lie within the file; a config and a tokenizer that come
// out of it must keep their promises.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "actors/gateway/gguf_vocabulary.h"
#include "runtime/model/gguf.h"
#include "runtime/model/gguf_config.h"
#include "runtime/model/gguf_tensors.h"
#include "runtime/model/slice.h"
#include "runtime/text/stream_decoder.h"
#include "runtime/text/tokenizer.h"

namespace {

using troupe::model::GgufFile;
using troupe::model::GgufType;

void check_places(const GgufFile& file, std::size_t size) {
  for (const auto& tensor : file.tensors()) {
    if (tensor.begin >= tensor.end || tensor.end > size) std::abort();
    if (file.find(tensor.name) != &tensor) std::abort();
  }
  for (const auto& value : file.metadata().values()) {
    if (value.offset > size || value.bytes > size - value.offset) std::abort();
    if (value.type == GgufType::kArray && value.element == GgufType::kString) {
      const auto strings = file.metadata().strings(value.key, size, "size");
      if (!strings.ok() || strings->size() != value.count) std::abort();
    }
  }
}

void check_config(const GgufFile& file, std::span<const std::byte> content, const troupe::Limits& limits) {
  const auto config = gguf_config(file, limits);
  if (!config.ok()) return;
  const troupe::model::Slice whole{0, config->num_layers, config->num_layers, 0, 1};
  if (!check_slice(*config, whole).ok() || weight_bytes(*config, whole) == 0) std::abort();
  if (config->sliding_windows.size() != config->num_layers) std::abort();
  if (inverse_frequencies(*config).size() != config->head_dim / 2) std::abort();
  if (config->num_experts_per_token > config->num_experts) std::abort();
  for (const auto& slice : tensor_slices(*config, whole)) {
    const auto part = find_gguf_part(file, slice);
    if (!part.ok() || part->bytes.data() < content.data() + part->tensor->begin ||
        part->bytes.data() + part->bytes.size() > content.data() + part->tensor->end) {
      std::abort();
    }
  }
}

void check_tokenizer(const GgufFile& file, const troupe::Limits& limits) {
  const auto vocabulary = read_vocabulary(file, limits);
  if (!vocabulary.ok()) return;
  const auto tokenizer = troupe::text::Tokenizer::build(*vocabulary, limits);
  if (!tokenizer.ok()) return;
  const auto ids = (*tokenizer)->encode("Hello  wörld <s>\n 123", true);
  if (!ids.ok()) return;
  troupe::text::StreamDecoder decoder(*tokenizer, false);
  std::string streamed;
  for (const std::uint32_t id : *ids) {
    if (id >= (*tokenizer)->vocab_size()) std::abort();
    streamed += decoder.push(id);
  }
  streamed += decoder.finish();
  if (streamed != (*tokenizer)->decode(*ids, false)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  troupe::Limits limits;
  limits.tokenizer_entries = 4096;
  const auto content = std::as_bytes(std::span(data, size));
  const auto file = GgufFile::parse(content, "fuzzed", limits);
  if (!file.ok()) return 0;
  check_places(**file, size);
  check_config(**file, content, limits);
  check_tokenizer(**file, limits);
  return 0;
}
