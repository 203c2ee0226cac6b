#include "runtime/model/gguf.h"

#include <boost/test/unit_test.hpp>
#include <random>

#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/gguf_writer.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

constexpr std::uint64_t kHuge[] = {std::uint64_t{1} << 40, std::uint64_t{1} << 60, std::uint64_t{1} << 63,
                                   ~std::uint64_t{0}};

Result<std::unique_ptr<GgufFile>> parsed(const std::string& content, const Limits& limits = {}) {
  return GgufFile::parse(std::as_bytes(std::span(content)), "m.gguf", limits);
}

// The error names the file and holds every hint.
void check_refused(const std::string& content, std::initializer_list<std::string_view> hints) {
  const auto file = parsed(content);
  BOOST_REQUIRE(!file.ok());
  const std::string& message = file.error().message;
  BOOST_TEST(message.find("m.gguf") == 0u, message);
  for (const std::string_view hint : hints) BOOST_TEST(message.find(hint) != std::string::npos, message);
}

// A small file with a value of every type and tensors of two types.
GgufWriter sound() {
  GgufWriter writer;
  writer.string("general.architecture", "llama").u32("a.u32", 7).f32("a.f32", 0.5f).boolean("a.bool", true);
  writer.raw("a.u8", GgufType::kU8, bytes_of<std::uint8_t>(200)).raw("a.i8", GgufType::kI8, bytes_of<std::int8_t>(-3));
  writer.raw("a.u16", GgufType::kU16, bytes_of<std::uint16_t>(60000));
  writer.raw("a.i16", GgufType::kI16, bytes_of<std::int16_t>(-300));
  writer.raw("a.i32", GgufType::kI32, bytes_of<std::int32_t>(-70000));
  writer.raw("a.u64", GgufType::kU64, bytes_of<std::uint64_t>(std::uint64_t{1} << 40));
  writer.raw("a.i64", GgufType::kI64, bytes_of<std::int64_t>(std::int64_t{1} << 41));
  writer.raw("a.f64", GgufType::kF64, bytes_of<double>(0.25));
  writer.strings("a.strings", {"x", "", "yz"}).i32s("a.i32s", {1, -2}).f32s("a.f32s", {1.5f});
  writer.f32_tensor("m", {2, 3}, {0, 1, 2, 3, 4, 5}).tensor("q", {2, 64}, 8, std::string(2 * 2 * 34, 'q'));
  writer.f32_tensor("v", {4}, {9, 8, 7, 6});
  return writer;
}

BOOST_AUTO_TEST_SUITE(gguf)

BOOST_AUTO_TEST_CASE(a_sound_file_gives_its_values_and_tensors) {
  for (const std::uint32_t version : {2u, 3u}) {
    const std::string content = sound().file(version);
    const auto file = parsed(content);
    BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
    const GgufMetadata& metadata = (*file)->metadata();
    BOOST_TEST(*metadata.string("general.architecture") == "llama");
    BOOST_TEST(*metadata.unsigned_integer("a.u8", 0, 255) == 200u);
    BOOST_TEST(*metadata.unsigned_integer("a.u16", 0, 65535) == 60000u);
    BOOST_TEST(*metadata.unsigned_integer("a.u32", 0, 10) == 7u);
    BOOST_TEST(*metadata.unsigned_integer("a.u64", 0, ~std::uint64_t{0}) == std::uint64_t{1} << 40);
    BOOST_TEST(*metadata.unsigned_integer("a.i64", 0, ~std::uint64_t{0}) == std::uint64_t{1} << 41);
    BOOST_TEST(*metadata.unsigned_integer("absent", 0, 10, 5) == 5u);
    BOOST_TEST(*metadata.number("a.f32") == 0.5);
    BOOST_TEST(*metadata.number("a.f64") == 0.25);
    BOOST_TEST(*metadata.number("a.i8") == -3.0);
    BOOST_TEST(*metadata.number("a.i16") == -300.0);
    BOOST_TEST(*metadata.number("a.i32") == -70000.0);
    BOOST_TEST(*metadata.boolean("a.bool", false));
    BOOST_TEST((*metadata.strings("a.strings", 10, "l") == std::vector<std::string_view>{"x", "", "yz"}));
    BOOST_TEST((*metadata.integers("a.i32s", 10, "l") == std::vector<std::int64_t>{1, -2}));
    BOOST_TEST((*metadata.floats("a.f32s", 10, "l") == std::vector<float>{1.5f}));
    BOOST_TEST(metadata.strings("absent", 10, "l")->empty());

    BOOST_REQUIRE((*file)->tensors().size() == 3u);
    const GgufTensor* m = (*file)->find("m");
    BOOST_REQUIRE(m != nullptr);
    BOOST_TEST(m->type->name == "F32");
    BOOST_TEST((std::vector<std::uint64_t>(m->shape().begin(), m->shape().end()) == std::vector<std::uint64_t>{2, 3}));
    const auto bytes = (*file)->bytes(*m);
    BOOST_REQUIRE(bytes.size() == 24u);
    float last = 0;
    std::memcpy(&last, bytes.data() + 20, sizeof last);
    BOOST_TEST(last == 5.0f);
    const GgufTensor* q = (*file)->find("q");
    BOOST_TEST((*file)->bytes(*q).size() == 2 * 2 * 34u);
    BOOST_TEST(static_cast<char>((*file)->bytes(*q)[0]) == 'q');
    BOOST_TEST(q->begin % 32 == 0u);
    BOOST_TEST((*file)->find("z") == nullptr);
  }
}

BOOST_AUTO_TEST_CASE(a_file_cut_at_any_byte_is_refused) {
  const GgufWriter writer = sound();
  const std::string whole = writer.file();
  const std::size_t needed = whole.size() - 16;  // the last tensor is 16 bytes long and padded to 32
  for (std::size_t length = 0; length < needed; ++length) {
    BOOST_TEST_CONTEXT(length << " bytes") { check_refused(whole.substr(0, length), {"byte "}); }
  }
  BOOST_TEST(parsed(whole.substr(0, needed)).ok());
}

BOOST_AUTO_TEST_CASE(counts_beyond_the_file_are_refused_before_anything_is_read) {
  for (const std::uint64_t count : kHuge) {
    const std::string tail(64, '\0');
    check_refused("GGUF" + bytes_of(3u) + bytes_of(count) + bytes_of<std::uint64_t>(0) + tail,
                  {"byte 8", std::to_string(count) + " tensors"});
    check_refused("GGUF" + bytes_of(3u) + bytes_of<std::uint64_t>(0) + bytes_of(count) + tail,
                  {"byte 16", std::to_string(count) + " metadata values"});
  }
}

BOOST_AUTO_TEST_CASE(lengths_beyond_the_file_are_refused) {
  const std::string prefix = "GGUF" + bytes_of(3u) + bytes_of<std::uint64_t>(0) + bytes_of<std::uint64_t>(1);
  const std::string tail(64, 'x');
  const auto array = [](GgufType element, std::uint64_t count) {
    return bytes_of(static_cast<std::uint32_t>(GgufType::kArray)) + bytes_of(static_cast<std::uint32_t>(element)) +
           bytes_of(count);
  };
  for (const std::uint64_t length : kHuge) {
    check_refused(prefix + bytes_of(length) + tail, {"byte 32", "metadata value 0", std::to_string(length)});
    check_refused(prefix + GgufWriter::text("k") + bytes_of(static_cast<std::uint32_t>(GgufType::kString)) +
                      bytes_of(length) + tail,
                  {"key 'k'", "byte 45", std::to_string(length)});
    for (const GgufType element : {GgufType::kU8, GgufType::kF64, GgufType::kString, GgufType::kBool}) {
      check_refused(prefix + GgufWriter::text("k") + array(element, length) + tail,
                    {"key 'k'", "byte 49", std::to_string(length)});
    }
    std::string strings = array(GgufType::kString, 2) + GgufWriter::text("a") + bytes_of(length) + tail;
    check_refused(prefix + GgufWriter::text("k") + strings, {"key 'k'", "string 1 of 2", std::to_string(length)});
  }
  const std::string one_gib = bytes_of<std::uint64_t>(1 << 30);
  check_refused(prefix + GgufWriter::text("k") + bytes_of(8u) + one_gib + tail, {"key 'k'", "1073741824"});
}

BOOST_AUTO_TEST_CASE(unknown_types_and_nested_arrays_are_refused) {
  for (const std::uint32_t type : {13u, 255u, 0xFFFFFFFFu}) {
    check_refused(GgufWriter().raw("k", static_cast<GgufType>(type), std::string(16, '\0')).file(),
                  {"key 'k'", "value type " + std::to_string(type)});
    check_refused(GgufWriter().raw("k", GgufType::kArray, bytes_of(type) + bytes_of(~std::uint64_t{0} >> 4)).file(),
                  {"key 'k'", "value type " + std::to_string(type)});
    check_refused(GgufWriter().tensor("t", {1}, type + 100, std::string(32, '\0')).file(),
                  {"tensor 't'", "type " + std::to_string(type + 100)});
  }
  std::string nested;
  for (int depth = 0; depth < 1000; ++depth) nested += bytes_of(9u) + bytes_of<std::uint64_t>(1);
  check_refused(GgufWriter().raw("k", GgufType::kArray, nested).file(), {"key 'k'", "array of arrays"});
}

BOOST_AUTO_TEST_CASE(shapes_that_make_no_sense_are_refused) {
  const std::string data(64, '\0');
  const auto shaped = [&](const std::vector<std::uint64_t>& shape, std::uint32_t type = 0) {
    return GgufWriter().tensor("t", shape, type, data).file();
  };
  check_refused(shaped({}), {"tensor 't'", "0 dimensions"});
  check_refused(shaped({1, 1, 1, 1, 1}), {"tensor 't'", "5 dimensions"});
  check_refused(shaped(std::vector<std::uint64_t>(1000, 1)), {"tensor 't'", "1000 dimensions"});
  check_refused(shaped({2, 0}), {"tensor 't'", "is 0"});
  check_refused(shaped({(std::uint64_t{1} << 42) + 1, std::uint64_t{1} << 22}), {"tensor 't'", "overflows"});
  check_refused(shaped({std::uint64_t{1} << 32, std::uint64_t{1} << 32}), {"tensor 't'", "overflows"});
  check_refused(shaped({std::uint64_t{1} << 62}), {"tensor 't'", "overflows"});
  check_refused(shaped({std::uint64_t{1} << 61}), {"tensor 't'", "bytes of data"});
  check_refused(shaped({2, 33}, 8), {"tensor 't'", "33", "Q8_0"});
  check_refused(shaped({4, 128}, 12), {"tensor 't'", "128", "256", "Q4_K"});
  // The number of dimensions is read before any of them.
  const std::string dimensions = "GGUF" + bytes_of(3u) + bytes_of<std::uint64_t>(1) + bytes_of<std::uint64_t>(0) +
                                 GgufWriter::text("t") + bytes_of(0xFFFFFFFFu) + std::string(64, '\0');
  check_refused(dimensions, {"tensor 't'", "4294967295 dimensions"});
}

BOOST_AUTO_TEST_CASE(tensors_that_overlap_or_lie_unaligned_or_outside_are_refused) {
  check_refused(sound().move("q", 0).file(), {"tensor 'q'", "offset 0", "inside the tensors before it"});
  check_refused(sound().move("q", 64).file(), {"tensor 'q'", "offset 64", "hole"});
  check_refused(sound().move("q", 24).file(), {"tensor 'q'", "offset 24", "alignment 32"});
  check_refused(sound().move("m", 32).file(), {"tensor 'm'", "offset 32", "hole"});
  for (const std::uint64_t offset : kHuge) {
    check_refused(sound().move("v", offset).file(), {"tensor 'v'", std::to_string(offset)});
  }
  check_refused(GgufWriter().f32_tensor("t", {1}, {1}).f32_tensor("t", {1}, {2}).file(), {"tensor 't'", "twice"});
}

BOOST_AUTO_TEST_CASE(the_alignment_is_a_power_of_two_of_its_own_type) {
  const auto aligned = [](std::uint32_t alignment) {
    return GgufWriter()
        .align(alignment)
        .u32("general.alignment", alignment)
        .f32_tensor("a", {3}, {1, 2, 3})
        .f32_tensor("b", {1}, {4});
  };
  for (const std::uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    const std::string content = aligned(alignment).file();
    const auto file = parsed(content);
    BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
    BOOST_TEST((*file)->find("b")->begin % alignment == 0u);
  }
  for (const std::uint32_t alignment : {3u, 1u << 30}) {
    GgufWriter writer;
    writer.u32("general.alignment", alignment).f32_tensor("a", {1}, {1});
    check_refused(writer.file(), {"'general.alignment'", std::to_string(alignment)});
  }
  check_refused(GgufWriter().u32("general.alignment", 0).file(), {"'general.alignment'", "is 0"});
  check_refused(GgufWriter().raw("general.alignment", GgufType::kI32, bytes_of<std::int32_t>(32)).file(),
                {"'general.alignment'", "uint32"});
}

BOOST_AUTO_TEST_CASE(keys_are_printable_and_appear_once) {
  check_refused(GgufWriter().u32("", 1).file(), {"metadata value 0", "empty"});
  check_refused(GgufWriter().u32("a", 1).u32("b", 1).u32("a", 2).file(), {"key 'a'", "twice"});
  check_refused(GgufWriter().u32("a\xff", 1).file(), {"ASCII"});
  check_refused(GgufWriter().u32(std::string_view("a\0b", 3), 1).file(), {"ASCII"});
  check_refused(GgufWriter().f32_tensor("", {1}, {1}).file(), {"tensor 0", "empty"});
}

BOOST_AUTO_TEST_CASE(versions_and_formats_that_are_not_read_say_so) {
  check_refused("", {"byte 0"});
  check_refused("GGU", {"byte 0", "not a GGUF file"});
  check_refused("PK\3\4" + std::string(64, '\0'), {"byte 0", "not a GGUF file"});
  check_refused(sound().file(1), {"version 1", "supported: 2 and 3"});
  check_refused(sound().file(0), {"version 0"});
  check_refused(sound().file(4), {"version 4"});
  check_refused(sound().file(0x03000000), {"big-endian"});
  check_refused("FUGG" + std::string(64, '\0'), {"big-endian"});
  for (const char* magic : {"lmgg", "fmgg", "tjgg"}) {
    check_refused(magic + std::string(64, '\0'), {"older than GGUF", "convert"});
  }
}

BOOST_AUTO_TEST_CASE(limits_are_named_when_they_are_reached) {
  const auto exceeded = [](const std::string& content, const Limits& limits, std::string_view name) {
    const auto file = parsed(content, limits);
    BOOST_REQUIRE(!file.ok());
    BOOST_TEST((file.error().code == ErrorCode::kResourceExhausted));
    BOOST_TEST(file.error().param == name);
  };
  Limits limits;
  limits.model_header_bytes = 100;
  exceeded(sound().file(), limits, "model_header_bytes");
  limits = {};
  limits.model_tensors = 2;
  exceeded(sound().file(), limits, "model_tensors");
  limits = {};
  limits.model_metadata = 3;
  exceeded(sound().file(), limits, "model_metadata");
  const std::string content = sound().file();
  const auto file = parsed(content);
  BOOST_TEST((*file)->metadata().strings("a.strings", 2, "tokenizer_entries").error().param == "tokenizer_entries");
}

BOOST_AUTO_TEST_CASE(a_value_of_the_wrong_type_or_range_names_its_key_and_offset) {
  const std::string content = sound().file();
  const auto file = parsed(content);
  BOOST_REQUIRE(file.ok());
  const GgufMetadata& metadata = (*file)->metadata();
  const auto check = [](const Error& error, std::initializer_list<std::string_view> hints) {
    for (const std::string_view hint : hints) BOOST_TEST(error.message.find(hint) != std::string::npos, error.message);
  };
  check(metadata.unsigned_integer("a.u32", 8, 9).error(), {"m.gguf", "'a.u32' at offset ", "is 7", "from 8 to 9"});
  check(metadata.unsigned_integer("a.i8", 0, 9).error(), {"is -3"});
  check(metadata.unsigned_integer("a.f32", 0, 9).error(), {"float32"});
  check(metadata.unsigned_integer("absent", 0, 9).error(), {"'absent' is missing"});
  check(metadata.number("a.strings").error(), {"array of string", "a number"});
  check(metadata.string("a.u32").error(), {"uint32", "a string"});
  check(metadata.boolean("a.u8", true).error(), {"uint8", "a boolean"});
  check(metadata.strings("a.i32s", 9, "l").error(), {"array of int32", "array of string"});
  check(metadata.floats("a.strings", 9, "l").error(), {"array of string"});
  check(metadata.integers("a.u32", 9, "l").error(), {"uint32", "an array"});
}

BOOST_AUTO_TEST_CASE(files_with_flipped_bytes_are_sound_or_refused_but_never_read_outside) {
  const GgufWriter writer = sound();
  const std::string whole = writer.file();
  const std::size_t header = writer.header().size();
  std::mt19937 random(7);
  std::size_t refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string broken = whole;
    for (int flips = 0; flips < 2; ++flips) broken[random() % header] = static_cast<char>(random());
    const auto file = parsed(broken);
    if (!file.ok()) {
      ++refused;
      continue;
    }
    for (const GgufTensor& tensor : (*file)->tensors()) {
      BOOST_REQUIRE(tensor.begin < tensor.end);
      BOOST_REQUIRE(tensor.end <= broken.size());
    }
    for (const GgufValue& value : (*file)->metadata().values()) {
      BOOST_REQUIRE(value.offset + value.bytes <= header);
      if (value.element == GgufType::kString && value.type == GgufType::kArray) {
        BOOST_REQUIRE((*file)->metadata().strings(value.key, 1000, "l").ok());
      }
    }
  }
  BOOST_TEST(refused > 2000u);
}

BOOST_AUTO_TEST_CASE(what_is_not_a_regular_file_is_refused) {
  const TemporaryDirectory directory;
  BOOST_TEST((GgufFile::open(directory / "absent").error().code == ErrorCode::kNotFound));
  BOOST_TEST(!GgufFile::open(directory.path()).ok());
  BOOST_TEST(!GgufFile::open("/dev/zero").ok());
  write_file(directory / "empty.gguf", "");
  BOOST_TEST(!GgufFile::open(directory / "empty.gguf").ok());
}

BOOST_AUTO_TEST_CASE(public_files_open_or_are_refused_for_what_they_are,
                     *boost::unit_test::precondition(&has_fixtures)) {
  const auto stories = GgufFile::open(fixtures() / "stories260K" / "stories260K.gguf");
  BOOST_REQUIRE_MESSAGE(stories.ok(), why(stories));
  BOOST_TEST((*stories)->tensors().size() == 48u);
  BOOST_TEST(*(*stories)->metadata().unsigned_integer("tokenizer.ggml.padding_token_id", 0, ~0u) == 4294967295u);
  BOOST_TEST((*stories)->metadata().contains("tokenizer.ggml.seperator_token_id"));
  std::size_t opened = 0;
  for (const auto& entry : std::filesystem::directory_iterator(fixtures() / "gguf_vocab")) {
    const auto file = GgufFile::open(entry.path());
    const std::string name = entry.path().filename();
    if (name.ends_with(".v1.gguf")) {
      BOOST_TEST(why(file).find("version 1") != std::string::npos, why(file));
    } else if (name.ends_with(".bin")) {
      BOOST_TEST(why(file).find("older than GGUF") != std::string::npos, why(file));
    } else {
      BOOST_TEST(file.ok(), why(file));
      ++opened;
    }
  }
  BOOST_TEST(opened == 4u);
  for (const auto& entry : std::filesystem::directory_iterator(fixtures() / "malformed" / "gguf_minimal")) {
    const auto file = GgufFile::open(entry.path());
    if (!file.ok()) BOOST_TEST(file.error().message.find(entry.path().string()) == 0u, file.error().message);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
