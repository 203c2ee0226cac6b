// The Kernels of a GPU against the reference: of an emulated one if the environment says TROUPE_GPU=emulated, else of
// cuda:0.
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <future>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gpu_memory.h"
#include "kernels/quant.h"
#include "tests/kernels/implementations.h"

namespace troupe::kernels {
namespace {

// A copy on a device of what a test has on the host.
class OnDevice {
 public:
  OnDevice(DeviceMemory& memory, const void* host, std::size_t bytes)
      : memory_(memory), bytes_(bytes), data_(memory.allocate(bytes, "a test").value()) {
    memory_.upload(data_, host, bytes);
  }
  ~OnDevice() { memory_.release(data_, bytes_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  void* data() const { return data_; }
  void fetch(void* host) const {
    const auto fetched = memory_.download(host, data_, bytes_);
    BOOST_REQUIRE_MESSAGE(fetched.ok(), fetched.error().message);
  }

 private:
  DeviceMemory& memory_;
  const std::size_t bytes_;
  void* const data_;
};

// Rows of floats with a gap between them.
class Rows {
 public:
  Rows(DeviceMemory& memory, Strided& host) : host_(host), copy_(memory, host.view().data, bytes(host)) {}
  MatrixF32 view() const {
    MatrixF32 view = host_.view();
    view.data = static_cast<float*>(copy_.data());
    return view;
  }
  // What the device holds now.
  Strided fetch() const {
    Strided fetched = host_;
    copy_.fetch(fetched.view().data);
    return fetched;
  }

 private:
  static std::size_t bytes(Strided& host) { return host.view().rows * host.view().row_stride * sizeof(float); }
  Strided& host_;
  OnDevice copy_;
};

class Floats {
 public:
  Floats(DeviceMemory& memory, const std::vector<float>& values)
      : size_(values.size()), copy_(memory, values.data(), values.size() * sizeof(float)) {}
  std::span<const float> span() const { return {data(), size_}; }
  const float* data() const { return static_cast<const float*>(copy_.data()); }

 private:
  std::size_t size_;
  OnDevice copy_;
};

struct Gpu {
  Gpu() {
    auto made = make_kernels({.cores = {}, .gpu = 0});
    BOOST_REQUIRE_MESSAGE(made.ok(), made.error().message);
    kernels = std::move(*made);
  }
  DeviceMemory& memory() { return kernels->memory(); }

  std::unique_ptr<Kernels> kernels;
  std::unique_ptr<Kernels> reference = make("reference");
};

float largest_of(const Strided& matrix, std::size_t rows, std::size_t cols) {
  float largest = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < cols; ++col) largest = std::max(largest, std::abs(matrix.at(row, col)));
  }
  return largest;
}

constexpr float kBf16Step = 1.0f / 256;  // what rounding to BF16 changes at most, relatively

BOOST_FIXTURE_TEST_SUITE(cuda_kernels, Gpu)

BOOST_AUTO_TEST_CASE(memory_is_zeroed_copied_and_kept_apart_from_the_hosts) {
  BOOST_TEST(!memory().is_host());
  BOOST_TEST(memory().pinned().is_host());
  // More than passes through the staging area at once.
  std::vector<std::uint32_t> numbers((40 << 20) / 4);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint32_t>(i * 2654435761u);
  const OnDevice copy(memory(), numbers.data(), numbers.size() * 4);
  std::vector<std::uint32_t> fetched(numbers.size());
  copy.fetch(fetched.data());
  BOOST_TEST((fetched == numbers));
  void* zeros = memory().allocate(1000, "a test").value();
  BOOST_REQUIRE(memory().download(fetched.data(), zeros, 1000).ok());
  BOOST_TEST(std::all_of(fetched.begin(), fetched.begin() + 250, [](std::uint32_t n) { return n == 0; }));
  memory().release(zeros, 1000);
}

BOOST_AUTO_TEST_CASE(more_memory_than_there_is_is_an_error_that_names_purpose_and_bytes) {
  const auto refused = memory().allocate(std::uint64_t{1} << 60, "a test of limits");
  BOOST_REQUIRE(!refused.ok());
  BOOST_TEST((refused.error().code == ErrorCode::kResourceExhausted));
  BOOST_TEST(refused.error().message.find("1152921504606846976 bytes for a test of limits") != std::string::npos);
  BOOST_TEST(memory().synchronize().ok());
}

// From the second time on, norms prepare what the products behind them read.
BOOST_AUTO_TEST_CASE(products_behind_a_norm_give_the_same_bits_each_time_and_see_what_changed_since) {
  Random random(8);
  const std::size_t rows = 3, cols = 96, outs = 40;
  Strided in(rows, cols, 0, random), other(rows, cols, 0, random), zeros(rows, cols, 0), result(rows, outs, 0);
  for (std::size_t row = 0; row < rows; ++row) std::fill_n(zeros.view().row(row), cols, 0.0f);
  const Floats norm(memory(), random.normals(cols));
  const Stored first(DType::kBF16, outs, cols, 0, random), second(DType::kF32, outs, cols, 0, random);
  const auto bf16 = kernels->pack(first.view()).value(), f32 = kernels->pack(second.view()).value();
  const Rows in_there(memory(), in), normed(memory(), zeros), out(memory(), result);
  const auto product_of = [&](const PackedWeight& weight) {
    kernels->linear(normed.view(), {&weight}, out.view());
    const Strided fetched = out.fetch();
    std::vector<float> all;
    for (std::size_t row = 0; row < rows; ++row) {
      for (const float value : fetched.row(row)) all.push_back(value);
    }
    return all;
  };
  std::vector<float> of_norm[2];
  for (int time = 0; time < 3; ++time) {
    kernels->rms_norm(in_there.view(), norm.span(), 1e-6f, normed.view());
    const auto with_bf16 = product_of(*bf16), with_f32 = product_of(*f32);
    if (time == 0) {
      of_norm[0] = with_bf16;
      of_norm[1] = with_f32;
    }
    BOOST_TEST(with_bf16 == of_norm[0], boost::test_tools::per_element());
    BOOST_TEST(with_f32 == of_norm[1], boost::test_tools::per_element());
  }
  // Sums, and what the host sends, are seen.
  kernels->rms_norm(in_there.view(), norm.span(), 1e-6f, normed.view());
  kernels->add(in_there.view(), normed.view());
  BOOST_TEST(product_of(*bf16) != of_norm[0]);
  kernels->rms_norm(in_there.view(), norm.span(), 1e-6f, normed.view());
  memory().upload(normed.view().data, other.view().data, rows * cols * sizeof(float));
  BOOST_TEST(product_of(*bf16) != of_norm[0]);
  kernels->rms_norm(in_there.view(), norm.span(), 1e-6f, normed.view());
  memory().clear(normed.view().data, rows * cols * sizeof(float));
  for (const float value : product_of(*bf16)) BOOST_REQUIRE_EQUAL(value, 0);
}

BOOST_AUTO_TEST_CASE(norms_sums_and_moved_rows_agree_with_the_reference) {
  Random random(1);
  for (int round = 0; round < 6; ++round) {
    const std::size_t rows = random.pick(1, 5), cols = random.pick(1, 300);
    Strided addend(rows, cols, 4, random), sum(rows, cols, 8, random), out(rows, cols, 0);
    const std::vector<float> weight = random.normals(cols);
    const Floats weight_there(memory(), weight);
    const Rows addend_there(memory(), addend), sum_there(memory(), sum), out_there(memory(), out);
    kernels->rms_norm(addend_there.view(), weight_there.span(), 1e-5f, out_there.view());
    reference->rms_norm(addend.view(), weight, 1e-5f, out.view());
    BOOST_TEST(largest_difference(out_there.fetch(), out, rows, cols) < 1e-5f * (1 + largest_of(out, rows, cols)));
    kernels->add_rms_norm(addend_there.view(), sum_there.view(), weight_there.span(), 1e-5f, out_there.view());
    reference->add_rms_norm(addend.view(), sum.view(), weight, 1e-5f, out.view());
    BOOST_TEST(largest_difference(sum_there.fetch(), sum, rows, cols) == 0);
    BOOST_TEST(largest_difference(out_there.fetch(), out, rows, cols) < 1e-5f * (1 + largest_of(out, rows, cols)));
    kernels->scale_by_sigmoid(addend_there.view(), weight_there.span(), sum_there.view());
    reference->scale_by_sigmoid(addend.view(), weight, sum.view());
    BOOST_TEST(largest_difference(sum_there.fetch(), sum, rows, cols) < 1e-4f * (1 + largest_of(sum, rows, cols)));
    kernels->add(addend_there.view(), sum_there.view());
    kernels->add(addend_there.view(), sum_there.view());
    reference->add(addend.view(), sum.view());
    reference->add(addend.view(), sum.view());
    BOOST_TEST(largest_difference(sum_there.fetch(), sum, rows, cols) < 1e-4f * (1 + largest_of(sum, rows, cols)));
    BOOST_TEST(sum_there.fetch().gaps_untouched());
  }
}

BOOST_AUTO_TEST_CASE(rows_for_logits_are_gathered_from_the_first_one_asked_for) {
  Random random(2);
  Strided in(6, 37, 3, random), gathered(3, 37, 1);
  const Rows in_there(memory(), in), gathered_there(memory(), gathered);
  const std::vector<std::uint32_t> rows{4, 5, 0, 3};
  for (Kernels* on : {kernels.get(), reference.get()}) on->begin_step({.logits_rows = rows});
  kernels->gather_logits_rows(in_there.view(), 1, gathered_there.view());
  reference->gather_logits_rows(in.view(), 1, gathered.view());
  BOOST_TEST(largest_difference(gathered_there.fetch(), gathered, 3, 37) == 0);
}

// The host does not know them, and asks what they were when the next step has long been queued.
BOOST_AUTO_TEST_CASE(tokens_that_the_batch_before_has_drawn_are_put_into_a_step) {
  Random random(8);
  constexpr std::size_t kVocabulary = 20, kCols = 50;
  const Stored table(DType::kF32, kVocabulary, kCols, 0, random);
  const OnDevice table_there(memory(), table.view().data, kVocabulary * kCols * sizeof(float));
  WeightView view = table.view();
  view.data = table_there.data();
  const std::vector<std::uint32_t> drawn{7, 0, 19};
  std::vector<float> logits(3 * kVocabulary, 0);
  for (std::size_t row = 0; row < 3; ++row) logits[row * kVocabulary + drawn[row]] = 1;
  const Floats logits_there(memory(), logits);
  const std::vector<SamplingRow> rows(3, {{.temperature = 0}});
  for (int round = 0; round < 3; ++round) {
    kernels->sampler()->begin({.rows = rows});
    kernels->sampler()->draw(0, {logits_there.data(), 3, kVocabulary});
    kernels->sampler()->send();
    const std::vector<std::uint32_t> tokens{0, 5, 0, 0}, sources{2, kTokenIsKnown, 0, 1}, expected{19, 5, 7, 0};
    const std::vector<std::uint32_t> positions{0, 1, 2, 3}, slots{0, 1, 2, 3};
    kernels->begin_step({.tokens = tokens, .token_sources = sources, .positions = positions, .slots = slots});
    reference->begin_step({.tokens = expected, .positions = positions, .slots = slots});
    Strided out(4, kCols, 2);
    const Rows out_there(memory(), out);
    kernels->embed(view, 0, out_there.view());
    reference->embed(table.view(), 0, out.view());
    BOOST_TEST(largest_difference(out_there.fetch(), out, 4, kCols) == 0);
    const auto taken = kernels->sampler()->take();
    BOOST_REQUIRE(taken.ok());
    BOOST_TEST(taken->tokens == drawn, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(who_asks_is_told_when_everything_is_done) {
  const std::vector<std::uint32_t> numbers{1, 2, 3};
  const OnDevice copy(memory(), numbers.data(), numbers.size() * sizeof(std::uint32_t));
  for (int round = 0; round < 3; ++round) {
    std::promise<bool> told;
    memory().notify([&](Result<void> done) { told.set_value(done.ok()); });
    auto ok = told.get_future();
    BOOST_REQUIRE((ok.wait_for(std::chrono::seconds(20)) == std::future_status::ready));
    BOOST_TEST(ok.get());
  }
  static_cast<GpuMemory&>(memory()).fail(resource_exhausted("no room"));
  std::string message;
  memory().notify([&](Result<void> done) { message = done.ok() ? "" : done.error().message; });
  BOOST_TEST(message == "no room");
}

BOOST_AUTO_TEST_CASE(embedding_takes_the_rows_of_a_table_of_any_type) {
  Random random(3);
  const std::vector<std::uint32_t> tokens{12, 10, 11, 3, 29};
  for (const DType dtype : kStorageTypes) {
    const Stored table(dtype, 7, 50, 0, random);
    const OnDevice there(memory(), table.view().data, 7 * 50 * size_of(dtype));
    WeightView view = table.view();
    view.data = there.data();
    Strided out(tokens.size(), 50, 2);
    const Rows out_there(memory(), out);
    for (Kernels* on : {kernels.get(), reference.get()}) on->begin_step({.tokens = tokens});
    kernels->embed(view, 10, out_there.view());
    reference->embed(table.view(), 10, out.view());
    BOOST_TEST(largest_difference(out_there.fetch(), out, tokens.size(), 50) == 0);
  }
}

BOOST_AUTO_TEST_CASE(products_and_swiglu_stay_within_the_rounding_of_their_inputs) {
  Random random(4);
  for (const DType dtype : kStorageTypes) {
    const std::size_t rows = random.pick(1, 4), cols = random.pick(1, 200), outs = random.pick(1, 90);
    const Stored gate(dtype, outs, cols, 0, random), up(dtype, outs, cols, 0, random);
    const auto bias = random.normals(outs);
    const Floats bias_there(memory(), bias);
    Strided in(rows, cols, 4, random, 1 / std::sqrt(float(cols))), out(rows, outs, 3);
    const Rows in_there(memory(), in), out_there(memory(), out);
    const auto gate_there = kernels->pack(gate.view()).value(), up_there = kernels->pack(up.view()).value();
    const auto gate_here = reference->pack(gate.view()).value(), up_here = reference->pack(up.view()).value();
    kernels->linear(in_there.view(), {gate_there.get(), bias_there.data()}, out_there.view());
    reference->linear(in.view(), {gate_here.get(), bias.data()}, out.view());
    // Each of the cols products is off by up to half a step of both factors; they scatter.
    BOOST_TEST(largest_difference(out_there.fetch(), out, rows, outs) < 4 * kBf16Step);
    BOOST_TEST(out_there.fetch().gaps_untouched());
    kernels->swiglu(in_there.view(), {gate_there.get()}, {up_there.get(), bias_there.data()}, out_there.view());
    reference->swiglu(in.view(), {gate_here.get()}, {up_here.get(), bias.data()}, out.view());
    BOOST_TEST(largest_difference(out_there.fetch(), out, rows, outs) <
               8 * kBf16Step * (1 + largest_of(out, rows, outs)));
  }
}

BOOST_AUTO_TEST_CASE(projected_heads_are_written_to_pages_and_attended_to) {
  constexpr std::size_t kHeads = 4, kKvHeads = 2, kHeadDim = 32, kHidden = 40, kBlocks = 6, kBlockSize = 16;
  Random random(5);
  for (const DType kv_dtype : kPageTypes) {
    const Stored query(DType::kBF16, kHeads * kHeadDim, kHidden, 0, random);
    const Stored key(DType::kBF16, kKvHeads * kHeadDim, kHidden, 0, random);
    const Stored value(DType::kBF16, kKvHeads * kHeadDim, kHidden, 0, random);
    const auto norm = random.normals(kHeadDim), bias = random.normals(kKvHeads * kHeadDim);
    const Floats norm_there(memory(), norm), bias_there(memory(), bias);
    Pages pages(kv_dtype, kBlocks, kBlockSize, kKvHeads, kHeadDim);
    const std::size_t bytes = kBlocks * kBlockSize * kKvHeads * kHeadDim * size_of(kv_dtype);
    const std::size_t scale_bytes = kBlocks * kBlockSize * kKvHeads * sizeof(float);
    PagedKv kv = pages.view();
    const OnDevice keys(memory(), kv.keys, bytes), values(memory(), kv.values, bytes);
    const OnDevice key_scales(memory(), kv.key_scales, scale_bytes),
        value_scales(memory(), kv.value_scales, scale_bytes);
    kv.keys = keys.data();
    kv.values = values.data();
    kv.key_scales = static_cast<float*>(key_scales.data());
    kv.value_scales = static_cast<float*>(value_scales.data());

    // Two sequences, of 21 and 5 tokens, all new, in blocks that lie apart.
    const std::vector<std::uint32_t> tables{4, 1, 3}, table_starts{0, 2, 3}, row_starts{0, 21, 26}, lengths{21, 5};
    std::vector<std::uint32_t> positions, slots;
    for (std::uint32_t i = 0; i < 26; ++i) {
      positions.push_back(i < 21 ? i : i - 21);
      const std::uint32_t block = i < 21 ? tables[positions[i] / kBlockSize] : tables[2];
      slots.push_back(block * kBlockSize + positions[i] % kBlockSize);
    }
    std::vector<float> frequencies;
    for (std::size_t i = 0; i < kHeadDim / 2; ++i) frequencies.push_back(std::pow(1e4f, -2.0f * float(i) / kHeadDim));
    const Floats frequencies_there(memory(), frequencies);
    const AttentionShape shape = {kHeads, kKvHeads, kHeadDim, 1 / std::sqrt(float(kHeadDim)), 0};
    Strided in(26, kHidden, 0, random, 0.2f), queries(26, kHeads * kHeadDim, 0), out(26, kHeads * kHeadDim, 0);
    const Rows in_there(memory(), in), queries_there(memory(), queries), out_there(memory(), out);
    const auto run = [&](Kernels& on, ConstMatrixF32 in, std::span<const float> norm, const float* bias,
                         std::span<const float> frequencies, MatrixF32 queries, const PagedKv& kv, MatrixF32 out) {
      const auto q = on.pack(query.view(), kHeadDim).value(), k = on.pack(key.view(), kHeadDim).value(),
                 v = on.pack(value.view(), kHeadDim).value();
      on.begin_step({.positions = positions,
                     .slots = slots,
                     .attention = {row_starts, lengths, tables, table_starts},
                     .shapes = {&shape, 1}});
      on.project_qkv(in, {{q.get()}, {k.get(), bias}, {v.get(), bias}, norm, norm, 1e-5f},
                     {frequencies, 1.0f, RopeLayout::kHalves}, queries, kv);
      on.attention(queries, kv, 0, out);
      BOOST_REQUIRE(on.memory().synchronize().ok());
    };
    run(*kernels, in_there.view(), norm_there.span(), bias_there.data(), frequencies_there.span(), queries_there.view(),
        kv, out_there.view());
    run(*reference, in.view(), norm, bias.data(), frequencies, queries.view(), pages.view(), out.view());
    BOOST_TEST(largest_difference(queries_there.fetch(), queries, 26, kHeads * kHeadDim) <
               4 * kBf16Step * (1 + largest_of(queries, 26, kHeads * kHeadDim)));
    BOOST_TEST(largest_difference(out_there.fetch(), out, 26, kHeads * kHeadDim) <
               16 * kBf16Step * (1 + largest_of(out, 26, kHeads * kHeadDim)));
  }
}

// Gates and ups of one type go in one launch, those of two types in two.
BOOST_AUTO_TEST_CASE(a_mixture_of_experts_agrees_with_the_reference) {
  Random random(6);
  for (int round = 0; round < 8; ++round) {
    const std::size_t rows = random.pick(1, 40), cols = random.pick(8, 70), width = random.pick(1, 50),
                      num_experts = random.pick(2, 9);
    const MixtureShape shape = {random.pick(1, 2), round % 2 == 0};
    const DType types[] = {DType::kBF16, round % 3 == 0 ? DType::kF32 : DType::kBF16, DType::kF32};
    std::vector<std::unique_ptr<PackedWeight>> weights;
    std::vector<ExpertWeights> there, here;
    for (std::size_t i = 0; i < num_experts; ++i) {
      const auto pack = [&](Kernels& on, const Stored& weight) {
        return weights.emplace_back(on.pack(weight.view()).value()).get();
      };
      const Stored gate(types[0], width, cols, 0, random), up(types[1], width, cols, 0, random),
          down(types[2], cols, width, 0, random);
      there.push_back({pack(*kernels, gate), pack(*kernels, up), pack(*kernels, down)});
      here.push_back({pack(*reference, gate), pack(*reference, up), pack(*reference, down)});
    }
    Strided in(rows, cols, 3, random, 1 / std::sqrt(float(cols))), logits(rows, num_experts, 1, random, 3);
    Strided sum(rows, cols, 2, random), routed(rows, cols, 0);
    Strided gated(rows * shape.experts_per_token, width, 0), out(rows * shape.experts_per_token, cols, 0);
    const Rows in_there(memory(), in), logits_there(memory(), logits), sum_there(memory(), sum);
    const Rows gated_there(memory(), gated), out_there(memory(), out);
    kernels->mix(in_there.view(), logits_there.view(), *kernels->make_mixture(there, shape).value(),
                 {{}, gated_there.view(), out_there.view()}, sum_there.view());
    reference->mix(in.view(), logits.view(), *reference->make_mixture(here, shape).value(),
                   {routed.view(), gated.view(), out.view()}, sum.view());
    const Strided fetched = sum_there.fetch();
    BOOST_TEST(largest_difference(fetched, sum, rows, cols) < 16 * kBf16Step * (1 + largest_of(sum, rows, cols)));
    BOOST_TEST(fetched.gaps_untouched());
  }
}

BOOST_AUTO_TEST_CASE(experts_that_differ_in_type_or_are_too_many_a_token_are_refused) {
  Random random(7);
  const Stored bf16(DType::kBF16, 8, 8, 0, random), f32(DType::kF32, 8, 8, 0, random);
  const auto one = kernels->pack(bf16.view()).value(), other = kernels->pack(f32.view()).value();
  const ExpertWeights same = {one.get(), one.get(), one.get()}, different = {one.get(), one.get(), other.get()};
  const std::vector<ExpertWeights> mixed = {same, different}, many(40, same);
  const auto by_type = kernels->make_mixture(mixed, {1, true});
  BOOST_REQUIRE(!by_type.ok());
  BOOST_TEST((by_type.error().code == ErrorCode::kUnsupported));
  const auto by_count = kernels->make_mixture(many, {33, true});
  BOOST_REQUIRE(!by_count.ok());
  BOOST_TEST(by_count.error().param == "num_experts_per_tok");
  BOOST_TEST(kernels->make_mixture(many, {32, true}).ok());
}

// A library whose products are all one number, but never on a real GPU.
class Sevens final : public CublasLt {
 public:
  Result<void> multiply(Stream stream, const LibraryProduct& product, std::byte*) override {
    if (!stream.is_emulated) return unsupported("not here");
    for (std::size_t row = 0; row < product.rows; ++row) {
      std::fill_n(static_cast<float*>(product.out) + row * product.out_stride, product.outs, 7.0f);
    }
    return {};
  }
};

BOOST_AUTO_TEST_CASE(a_library_multiplies_many_rows_and_what_it_reports_comes_out_of_the_memory) {
  Random random(8);
  const Stored weight(DType::kBF16, 5, 16, 0, random);
  for (const bool emulated : {true, false}) {
    auto gpu = emulated ? Result<std::unique_ptr<troupe::kernels::Gpu>>(open_emulated_gpu()) : open_gpu(0);
    if (!gpu.ok()) continue;
    const auto with_library = make_cuda_kernels(std::move(*gpu), {.library = std::make_unique<Sevens>()}).value();
    const auto packed = with_library->pack(weight.view()).value();
    for (const std::size_t rows : {kLeastLibraryRows - 1, kLeastLibraryRows}) {
      Strided in(rows, 16, 0, random), out(rows, 5, 1);
      const Rows in_there(with_library->memory(), in), out_there(with_library->memory(), out);
      with_library->linear(in_there.view(), {packed.get()}, out_there.view());
      if (!emulated && rows == kLeastLibraryRows) {
        BOOST_TEST(!with_library->memory().synchronize().ok());
        continue;
      }
      const Strided fetched = out_there.fetch();
      for (std::size_t row = 0; row < rows; ++row) BOOST_TEST((fetched.at(row, 2) == 7) == (rows >= kLeastLibraryRows));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::kernels
