#include "runtime/model/safetensors.h"

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

// Opens a file with this content.
struct Opened {
  explicit Opened(std::string_view content, const Limits& limits = {})
      : written((write_file(directory / "m.safetensors", content), true)),
        result(SafetensorsFile::open(directory / "m.safetensors", limits)) {}

  TemporaryDirectory directory;
  bool written;
  Result<std::unique_ptr<SafetensorsFile>> result;
};

// The error names the file and holds every hint.
void check_refused(const std::string& content, std::initializer_list<std::string_view> hints) {
  const Opened opened(content);
  BOOST_REQUIRE(!opened.result.ok());
  const std::string& message = opened.result.error().message;
  BOOST_TEST(message.find("m.safetensors") != std::string::npos, message);
  for (const std::string_view hint : hints) BOOST_TEST(message.find(hint) != std::string::npos, message);
}

void check_header_refused(std::string_view header, std::size_t data_bytes,
                          std::initializer_list<std::string_view> hints) {
  BOOST_TEST_CONTEXT(header) { check_refused(safetensors_text(header, std::string(data_bytes, 'x')), hints); }
}

constexpr std::string_view kSound =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
    R"("a":{"shape":[2],"data_offsets":[0,4],"dtype":"BF16"},"s":{"dtype":"U8","shape":[],"data_offsets":[28,29]},)"
    R"("none":{"dtype":"F16","shape":[0,5],"data_offsets":[29,29]}}   )";

BOOST_AUTO_TEST_SUITE(safetensors)

BOOST_AUTO_TEST_CASE(a_sound_file_lists_its_tensors_by_name) {
  std::string data(29, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i);
  const Opened opened(safetensors_text(kSound, data));
  BOOST_REQUIRE_MESSAGE(opened.result.ok(), why(opened.result));
  const SafetensorsFile& file = **opened.result;
  BOOST_REQUIRE(file.tensors().size() == 4u);
  BOOST_TEST(file.tensors()[0].name == "a");
  const StoredTensor* b = file.find("b");
  BOOST_REQUIRE(b != nullptr);
  BOOST_TEST((b->shape == std::vector<std::uint64_t>{2, 3}));
  BOOST_TEST((b->type == StoredType::kF32));
  BOOST_TEST(b->begin == 8 + kSound.size() + 4);
  BOOST_TEST(file.bytes(*b).size() == 24u);
  BOOST_TEST(static_cast<int>(file.bytes(*b)[0]) == 4);
  BOOST_TEST(file.find("s")->shape.empty());
  BOOST_TEST(file.bytes(*file.find("none")).empty());
  BOOST_TEST(file.find("c") == nullptr);
}

BOOST_AUTO_TEST_CASE(a_file_cut_at_any_byte_is_refused) {
  const std::string whole = safetensors_text(kSound, std::string(29, 'x'));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    BOOST_TEST_CONTEXT(length << " bytes") { check_refused(whole.substr(0, length), {}); }
  }
}

BOOST_AUTO_TEST_CASE(a_header_length_beyond_the_file_is_refused) {
  for (const std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{1} << 40, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    std::string text(reinterpret_cast<const char*>(&length), sizeof length);
    check_refused(text + "{}", {"byte 0", std::to_string(length)});
  }
}

BOOST_AUTO_TEST_CASE(a_header_beyond_the_limit_names_it) {
  Limits limits;
  limits.model_header_bytes = 10;
  const Opened opened(safetensors_text(kSound, std::string(29, 'x')), limits);
  BOOST_REQUIRE(!opened.result.ok());
  BOOST_TEST(opened.result.error().param == "model_header_bytes");
  Limits few;
  few.model_tensors = 3;
  const Opened crowded(safetensors_text(kSound, std::string(29, 'x')), few);
  BOOST_REQUIRE(!crowded.result.ok());
  BOOST_TEST(crowded.result.error().message.find("limit model_tensors") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(ranges_that_do_not_tile_the_data_are_refused) {
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],)"
                       R"("data_offsets":[2,6]}})",
                       6, {"'b'", "inside the tensor"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],)"
                       R"("data_offsets":[5,9]}})",
                       9, {"'b'", "hole"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5, {"'a'", "hole"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 5, {"1 bytes after the last"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3, {"'a'", "3 bytes of data"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4, {"'a'", "[4, 0]"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,18446744073709551615]}})",
                       4, {"'a'"});
  check_header_refused("{}", 1, {"belong to none"});
}

BOOST_AUTO_TEST_CASE(a_shape_that_is_not_its_bytes_is_refused) {
  check_header_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, {"'a'", "[2]", "takes 8"});
  check_header_refused(R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1, {"'a'"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                       {"'a'", "overflows"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[4398046511105,4194304],"data_offsets":[0,4]}})", 4,
                       {"'a'", "overflows"});
  check_header_refused(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
                       {"'a'", "8 dimensions"});
}

BOOST_AUTO_TEST_CASE(a_header_that_is_not_the_format_is_refused_at_its_byte) {
  const std::string entry = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  for (const std::string& header :
       std::vector<std::string>{"",
                                " {}",
                                "[]",
                                "{",
                                "{}x",
                                "null",
                                "{\"a\":1}",
                                "{\"a\":[]}",
                                "{\"a\":{}}",
                                "{" + entry + "," + entry + "}",
                                "{" + entry + ",}",
                                R"({"a":{"dtype":"X9","shape":[1],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})",
                                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})",
                                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":{}}})",
                                R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":0}})",
                                R"({"__metadata__":{"n":1},)" + entry + "}",
                                R"({"__metadata__":"x",)" + entry + "}",
                                R"({"__metadata__":{},"__metadata__":{},)" + entry + "}",
                                "{\"\xff\":" + entry.substr(4) + "}"}) {
    check_header_refused(header, 1, {});
  }
  check_header_refused(R"({"a":{"dtype":"U8","shape":[1],"size":0}})", 1, {"byte 44", "unknown field 'size'"});
  check_header_refused("{" + entry + "," + entry + "}", 1, {"'a'"});
}

BOOST_AUTO_TEST_CASE(names_of_equal_empty_tensors_must_differ_too) {
  const std::string entry = R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  check_header_refused("{" + entry + "," + entry + "}", 0, {"'a'", "twice"});
}

BOOST_AUTO_TEST_CASE(files_with_flipped_bytes_are_sound_or_refused_but_never_read_outside) {
  const std::string whole = safetensors_text(kSound, std::string(29, 'x'));
  std::mt19937 random(11);
  std::size_t refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string broken = whole;
    for (int flips = 0; flips < 2; ++flips) broken[random() % (8 + kSound.size())] = static_cast<char>(random());
    const std::string_view header = std::string_view(broken).substr(8, kSound.size());
    const auto tensors = parse_safetensors_header(header, 8 + kSound.size(), broken.size(), "flipped");
    refused += tensors.ok() ? 0 : 1;
    if (!tensors.ok()) continue;
    for (const StoredTensor& tensor : *tensors) {
      BOOST_REQUIRE(tensor.begin >= 8 + kSound.size());
      BOOST_REQUIRE(tensor.begin <= tensor.end);
      BOOST_REQUIRE(tensor.end <= broken.size());
    }
  }
  BOOST_TEST(refused > 1000u);
}

BOOST_AUTO_TEST_CASE(what_is_not_a_regular_file_is_refused) {
  const TemporaryDirectory directory;
  BOOST_TEST((SafetensorsFile::open(directory / "absent").error().code == ErrorCode::kNotFound));
  BOOST_TEST(!SafetensorsFile::open(directory.path()).ok());
  BOOST_TEST(!SafetensorsFile::open("/dev/zero").ok());
}

BOOST_AUTO_TEST_CASE(public_files_of_every_type_open, *boost::unit_test::precondition(&has_fixtures)) {
  std::size_t opened = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(fixtures() / "malformed" / "safetensors_dtypes")) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::open(entry.path());
    if (entry.path().filename() == "las7_tiny.safetensors") {  // five bytes more than its header accounts for
      BOOST_TEST(file.error().message.find("5 bytes after the last tensor") != std::string::npos);
      continue;
    }
    BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
    BOOST_TEST(!(*file)->tensors().empty());
    ++opened;
  }
  BOOST_TEST(opened >= 10u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
