#include "runtime/fabric/message.h"

#include <boost/test/unit_test.hpp>
#include <numeric>

#include "runtime/fabric/message_types.h"
#include "schema/cluster.capnp.h"
#include "schema/generate.capnp.h"

namespace troupe::fabric {
namespace {

Message<schema::Generate> generate_with(std::uint32_t tokens) {
  return make_message<schema::Generate>([&](schema::Generate::Builder generate) {
    generate.setRequest(7);
    auto list = generate.initTokens(tokens);
    for (std::uint32_t i = 0; i < tokens; ++i) list.set(i, i);
  });
}

std::vector<capnp::word> words_of(const MessageDataPtr& data) { return {data->words().begin(), data->words().end()}; }

Result<void> check(const std::vector<capnp::word>& words, std::uint64_t type = capnp::typeId<schema::Generate>()) {
  static const MessageTypes types = schema_message_types();
  return types.find(type)->validator->check(kj::arrayPtr(words.data(), words.size()));
}

void set_word(capnp::word& word, std::uint64_t value) { std::memcpy(static_cast<void*>(&word), &value, sizeof(value)); }

// A struct pointer: offset in words from its end, sizes of the two sections in words.
std::uint64_t struct_pointer(std::int32_t offset, std::uint16_t data, std::uint16_t pointers) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(offset) << 2)) | std::uint64_t{data} << 32 |
         std::uint64_t{pointers} << 48;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(message)

BOOST_AUTO_TEST_CASE(a_message_reads_back_what_was_built) {
  auto message = generate_with(3);
  auto reader = message.read();
  BOOST_TEST(reader->getRequest() == 7);
  BOOST_TEST(reader.root().getTokens().size() == 3);
  BOOST_TEST(reader->getTokens()[2] == 2);
}

BOOST_AUTO_TEST_CASE(a_message_that_outgrows_its_first_segment_is_flat_and_complete) {
  auto message = generate_with(100'000);
  auto reader = message.read();
  BOOST_TEST(reader->getTokens().size() == 100'000);
  BOOST_TEST(reader->getTokens()[99'999] == 99'999);
  BOOST_TEST(message.data()->segment().size() >= 400'000);
  BOOST_TEST(check(words_of(message.data())).ok());
}

BOOST_AUTO_TEST_CASE(many_lists_over_several_segments_survive_flattening) {
  auto message = make_message<schema::Deltas>([](schema::Deltas::Builder deltas) {
    auto items = deltas.initItems(500);
    for (unsigned i = 0; i < 500; ++i) {
      auto tokens = items[i].initTokens(i);
      for (unsigned j = 0; j < i; ++j) tokens.set(j, i * j);
    }
  });
  auto reader = message.read();
  auto items = reader->getItems();
  for (unsigned i = 1; i < 500; ++i) BOOST_TEST(items[i].getTokens()[i - 1] == i * (i - 1));
  BOOST_TEST(check(words_of(message.data()), capnp::typeId<schema::Deltas>()).ok());
}

BOOST_AUTO_TEST_CASE(recycled_memory_starts_zeroed) {
  for (int i = 0; i < 8; ++i) {
    generate_with(50);
    auto empty = make_message<schema::Generate>([](schema::Generate::Builder generate) { generate.initTokens(50); });
    for (auto token : empty.read().operator*().getTokens()) BOOST_TEST(token == 0);
  }
}

BOOST_AUTO_TEST_CASE(a_fresh_reader_is_not_exhausted_by_earlier_ones) {
  auto message = generate_with(2000);
  for (int i = 0; i < 1000; ++i) {
    auto reader = message.read();
    BOOST_REQUIRE(reader->getTokens()[1999] == 1999);
  }
}

BOOST_AUTO_TEST_CASE(attachments_share_memory_and_keep_it) {
  auto owner = std::make_shared<std::vector<std::byte>>(100, std::byte{5});
  auto attachment = Attachment::wrap(owner, *owner);
  const auto* address = owner->data();
  std::weak_ptr<std::vector<std::byte>> alive = owner;
  owner.reset();
  MessageBuilder<schema::StatsRequest> builder;
  BOOST_TEST(builder.attach(attachment) == 0);
  BOOST_TEST(builder.attach(Attachment::copy_of(attachment.bytes())) == 1);
  attachment = {};
  auto message = std::move(builder).finish();
  BOOST_TEST(message.attachments()[0].data() == address);
  BOOST_TEST((message.attachments()[1].data()[99] == std::byte{5}));
  message = {};
  BOOST_TEST(alive.expired());
}

BOOST_AUTO_TEST_CASE(attachment_memory_is_aligned) {
  for (std::size_t bytes : {1, 63, 1000, 1 << 20}) {
    BOOST_TEST(reinterpret_cast<std::uintptr_t>(Attachment::allocate(bytes).data()) % 64 == 0);
  }
}

BOOST_AUTO_TEST_CASE(a_release_listener_hears_once_when_the_last_copy_goes) {
  struct Listener : ReleaseListener {
    void buffer_released(std::uint64_t charge) noexcept override { total += charge; }
    std::uint64_t total = 0;
  };
  auto listener = std::make_shared<Listener>();
  auto buffer = Buffer::allocate(10);
  buffer.on_release(listener, 42);
  auto copy = buffer;
  buffer = {};
  BOOST_TEST(listener->total == 0);
  copy = {};
  BOOST_TEST(listener->total == 42);
  Buffer::allocate(10);  // the recycled block has forgotten the listener
  BOOST_TEST(listener->total == 42);
}

BOOST_AUTO_TEST_CASE(truncated_messages_are_refused_at_every_length) {
  auto words = words_of(generate_with(20).data());
  BOOST_REQUIRE(check(words).ok());
  for (std::size_t length = 1; length < words.size(); ++length) {
    auto result = check({words.begin(), words.begin() + length});
    BOOST_TEST(!result.ok());
  }
}

BOOST_AUTO_TEST_CASE(a_cyclic_message_is_refused) {
  // Spawn.model of Spawn: a root whose first struct pointer leads back to the root itself.
  std::vector<capnp::word> words(32);
  std::memset(static_cast<void*>(words.data()), 0, words.size() * sizeof(capnp::word));
  set_word(words[0], struct_pointer(0, 0, 31));
  for (int i = 1; i < 32; ++i) set_word(words[i], struct_pointer(-i - 1 + 1, 0, 31));
  BOOST_TEST(!check(words, capnp::typeId<schema::Generate>()).ok());
}

BOOST_AUTO_TEST_CASE(a_list_that_claims_more_than_there_is_is_refused) {
  // Deltas.items: a list of 2^29 - 1 empty structs costs no bytes and must cost traversal.
  std::vector<capnp::word> words(4);
  std::memset(static_cast<void*>(words.data()), 0, words.size() * sizeof(capnp::word));
  set_word(words[0], struct_pointer(0, 0, 1));
  set_word(words[1], 1 | std::uint64_t{7} << 32);      // a composite list without words
  set_word(words[2], std::uint64_t{0x1fffffff} << 2);  // its tag: that many structs of size 0
  BOOST_TEST(!check(words, capnp::typeId<schema::Deltas>()).ok());
}

BOOST_AUTO_TEST_CASE(random_damage_never_escapes_the_validator) {
  auto whole = words_of(generate_with(20).data());
  std::uint64_t state = 1;
  for (int round = 0; round < 20'000; ++round) {
    auto words = whole;
    for (int flips = 0; flips < 3; ++flips) {
      state = state * 6364136223846793005 + 1442695040888963407;
      auto bit = (state >> 33) % (words.size() * 64);
      reinterpret_cast<std::uint8_t*>(words.data())[bit / 8] ^= 1 << (bit % 8);
    }
    if (!check(words)) continue;
    // What passed must be readable to the end without an exception.
    MessageReader<schema::Generate> reader(
        std::make_shared<const MessageData>(Buffer{}, words.data(), words.size(), std::vector<Attachment>{}));
    std::uint64_t sum = 0;
    for (auto token : reader->getTokens()) sum += token;
    for (auto token : reader->getStopTokens()) sum += token;
    for (auto bias : reader->getSampling().getLogitBias()) sum += bias.getToken();
    BOOST_TEST_CHECKPOINT(sum);
  }
}

BOOST_AUTO_TEST_CASE(the_fingerprint_depends_on_the_types) {
  MessageTypes one, two;
  one.add<schema::Generate>();
  two.add<schema::Generate>().add<schema::Stats>();
  BOOST_TEST(one.fingerprint() != two.fingerprint());
  BOOST_TEST(schema_message_types().fingerprint() == schema_message_types().fingerprint());
  BOOST_TEST(one.find(capnp::typeId<schema::Stats>()) == nullptr);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::fabric
