// Two or three nodes in this process.
#include <boost/test/unit_test.hpp>
#include <future>
#include <mutex>
#include <thread>

#include "tests/runtime/fabric/support.h"

namespace troupe::fabric {
namespace {

using namespace test;

struct Pair {
  explicit Pair(Limits limits = {}, const std::string& transports = "")
      : left("left", limits, "cluster secret", transports), right("right", limits, "cluster secret", transports) {
    auto connected = left.fabric().connect(right.fabric().endpoint());
    if (!connected) BOOST_FAIL(connected.error().message);
    right_id = *connected;
    actor = right.system().spawn(echo);
    right.fabric().publish("echo", caf::actor_cast<caf::strong_actor_ptr>(actor));
  }
  ~Pair() {
    caf::anon_send_exit(actor, caf::exit_reason::kill);
    left.stop();
    right.stop();
  }
  caf::actor remote() { return left.resolve(right_id, "echo"); }

  Node left, right;
  NodeId right_id;
  caf::actor actor;
};

// Waits for something that another thread will do; the patience only ends a broken test.
template <class Condition>
bool eventually(Condition&& condition) {
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(fabric)

BOOST_AUTO_TEST_CASE(a_request_is_answered_across_nodes) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  auto outcome = ask(self, pair.remote(), ping(41));
  BOOST_TEST(!outcome.error);
  BOOST_TEST(outcome.number == 42);
  BOOST_TEST(pair.right_id.name == "right");
  BOOST_TEST(pair.right_id.incarnation == pair.right.fabric().node().incarnation);
}

BOOST_AUTO_TEST_CASE(connecting_twice_gives_the_same_peer) {
  Pair pair;
  auto again = pair.left.fabric().connect(pair.right.fabric().endpoint());
  BOOST_REQUIRE(again.ok());
  BOOST_TEST((*again == pair.right_id));
  auto back = pair.right.fabric().connect(pair.left.fabric().endpoint());
  BOOST_REQUIRE(back.ok());
  BOOST_TEST((*back == pair.left.fabric().node()));
  BOOST_TEST(pair.left.fabric().stats().peers == 1);
  BOOST_TEST((*pair.left.fabric().connect(pair.left.fabric().endpoint()) == pair.left.fabric().node()));
}

BOOST_AUTO_TEST_CASE(nodes_that_call_each_other_at_once_become_one_pair) {
  Node left("left"), right("right");
  auto call = std::async(std::launch::async, [&] { return left.fabric().connect(right.fabric().endpoint()); });
  auto back = right.fabric().connect(left.fabric().endpoint());
  auto there = call.get();
  BOOST_REQUIRE(there.ok());
  BOOST_REQUIRE(back.ok());
  auto actor = right.system().spawn(echo);
  right.fabric().publish("echo", caf::actor_cast<caf::strong_actor_ptr>(actor));
  caf::scoped_actor self(left.system());
  for (std::uint64_t i = 1; i < 100; ++i) BOOST_TEST(ask(self, left.resolve(*there, "echo"), ping(i)).number == i + 1);
  BOOST_TEST(left.fabric().stats().peers == 1);
  caf::anon_send_exit(actor, caf::exit_reason::kill);
}

BOOST_AUTO_TEST_CASE(messages_arrive_in_order_whatever_their_size) {
  Pair pair;
  std::promise<void> done;
  std::atomic<std::uint64_t> expected{1};
  std::atomic<bool> in_order{true};
  constexpr std::uint64_t kMessages = 300;
  auto sink = pair.right.system().spawn([&](caf::event_based_actor* self) -> caf::behavior {
    return {[&, self](const Ping& message) {
      auto number = number_of(message);
      if (number != expected++) in_order = false;
      for (const auto& attachment : message.attachments()) {
        if (attachment.data()[attachment.size() - 1] != static_cast<std::byte>(number)) in_order = false;
      }
      if (number == kMessages) {
        done.set_value();
        self->quit();
      }
    }};
  });
  pair.right.fabric().publish("sink", caf::actor_cast<caf::strong_actor_ptr>(sink));
  auto remote = pair.left.resolve(pair.right_id, "sink");
  // Inline, whole and in pieces by turns.
  const std::size_t sizes[] = {0, 600'000, 64, 3'000'000, 10'000, 0, 262'144, 1};
  for (std::uint64_t i = 1; i <= kMessages; ++i) caf::anon_send(remote, ping(i, sizes[i % 8]));
  BOOST_REQUIRE(done.get_future().wait_for(kPatience) == std::future_status::ready);
  BOOST_TEST(in_order.load());
}

BOOST_AUTO_TEST_CASE(large_metadata_and_several_attachments_arrive_whole) {
  Pair pair;
  std::promise<bool> checked;
  auto sink = pair.right.system().spawn([&](caf::event_based_actor* self) -> caf::behavior {
    return {[&, self](const Ping& message) {
      auto reader = message.read();
      bool whole = reader->getTokens().size() == 200'000 && reader->getTokens()[199'999] == 199'999 &&
                   message.attachments().size() == 3 && message.attachments()[0].size() == 5 &&
                   message.attachments()[1].size() == 1'000'000 && message.attachments()[2].size() == 0 &&
                   message.attachments()[1].data()[999'999] == std::byte{9};
      checked.set_value(whole);
      self->quit();
    }};
  });
  pair.right.fabric().publish("sink", caf::actor_cast<caf::strong_actor_ptr>(sink));
  MessageBuilder<schema::Generate> builder;
  auto tokens = builder.root().initTokens(200'000);
  for (unsigned i = 0; i < 200'000; ++i) tokens.set(i, i);
  builder.attach(Attachment::copy_of(std::vector<std::byte>(5, std::byte{1})));
  builder.attach(Attachment::copy_of(std::vector<std::byte>(1'000'000, std::byte{9})));
  builder.attach(Attachment::allocate(0));
  caf::anon_send(pair.left.resolve(pair.right_id, "sink"), std::move(builder).finish());
  auto future = checked.get_future();
  BOOST_REQUIRE(future.wait_for(kPatience) == std::future_status::ready);
  BOOST_TEST(future.get());
}

BOOST_AUTO_TEST_CASE(a_request_to_nobody_and_an_unknown_type_are_errors) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  auto outcome = ask(self, pair.left.resolve(pair.right_id, "nobody"), ping(1));
  BOOST_TEST((outcome.error == caf::sec::request_receiver_down));
  BOOST_TEST(pair.right.fabric().stats().dropped_unknown_actor == 1);

  caf::error error;
  self->request(pair.remote(), kPatience, std::string("not a message"))
      .receive([](const Pong&) {}, [&](caf::error& e) { error = e; });
  BOOST_TEST((error == caf::sec::unknown_type));
  BOOST_TEST(ask(self, pair.remote(), ping(1)).number == 2);
}

BOOST_AUTO_TEST_CASE(errors_and_unhandled_messages_come_back_as_errors) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  caf::error error;
  self->request(pair.remote(), kPatience, make_message<schema::StatsRequest>([](auto) {}))
      .receive([](const Pong&) {}, [&](caf::error& e) { error = e; });
  BOOST_TEST((error == caf::sec::unexpected_message));
}

BOOST_AUTO_TEST_CASE(a_monitor_hears_of_the_remote_actors_death_after_its_handle_was_dropped) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  {
    auto remote = pair.remote();
    self->monitor(remote);
    caf::anon_send(remote, pong(0));
  }
  bool heard = false;
  self->receive([&](const caf::down_msg& down) { heard = down.reason == caf::exit_reason::user_shutdown; },
                caf::after(kPatience) >> [] {});
  BOOST_TEST(heard);
}

BOOST_AUTO_TEST_CASE(a_monitor_of_a_dead_actor_fires_and_names_the_handle) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  auto nobody = pair.left.resolve(pair.right_id, "nobody");
  self->monitor(nobody);
  bool heard = false;
  self->receive([&](const caf::down_msg& down) { heard = down.source == nobody; }, caf::after(kPatience) >> [] {});
  BOOST_TEST(heard);
}

BOOST_AUTO_TEST_CASE(a_successor_is_reached_under_the_published_name) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  self->monitor(pair.remote());
  caf::anon_send(pair.remote(), pong(0));
  self->receive([](const caf::down_msg&) {}, caf::after(kPatience) >> [] { BOOST_FAIL("no down message"); });
  auto successor = pair.right.system().spawn(echo);
  pair.right.fabric().publish("echo", caf::actor_cast<caf::strong_actor_ptr>(successor));
  BOOST_TEST(ask(self, pair.remote(), ping(5)).number == 6);
  caf::anon_send_exit(successor, caf::exit_reason::kill);
}

BOOST_AUTO_TEST_CASE(links_end_both_ways) {
  Pair pair;
  std::promise<caf::error> left_ended;
  auto linked = pair.left.system().spawn([&](caf::event_based_actor* self) -> caf::behavior {
    auto remote = pair.remote();
    self->link_to(remote);
    self->send(remote, pong(0));  // it quits, after it heard of the link
    self->set_exit_handler([&, self](caf::exit_msg& exit) {
      left_ended.set_value(exit.reason);
      self->quit();
    });
    return {[](const Pong&) {}};
  });
  auto future = left_ended.get_future();
  BOOST_REQUIRE(future.wait_for(kPatience) == std::future_status::ready);
  BOOST_TEST((future.get() == caf::exit_reason::user_shutdown));

  auto other = pair.right.system().spawn(echo);
  pair.right.fabric().publish("other", caf::actor_cast<caf::strong_actor_ptr>(other));
  caf::scoped_actor watcher(pair.right.system());
  watcher->monitor(other);
  auto remote = pair.left.resolve(pair.right_id, "other");
  auto short_lived = pair.left.system().spawn([remote](caf::event_based_actor* self) -> caf::behavior {
    self->link_to(remote);
    return {[self](const Pong&) { self->quit(caf::exit_reason::user_shutdown); }};
  });
  caf::anon_send(short_lived, pong(0));
  bool ended = false;
  watcher->receive([&](const caf::down_msg& down) { ended = down.reason == caf::exit_reason::user_shutdown; },
                   caf::after(kPatience) >> [] {});
  BOOST_TEST(ended);
}

BOOST_AUTO_TEST_CASE(a_delegated_request_is_answered_by_a_third_node) {
  Pair pair;
  Node third("third");
  auto third_id = pair.right.fabric().connect(third.fabric().endpoint());
  BOOST_REQUIRE(third_id.ok());
  auto worker = third.system().spawn(echo);
  third.fabric().publish("echo", caf::actor_cast<caf::strong_actor_ptr>(worker));
  auto remote = pair.right.resolve(*third_id, "echo");
  auto broker = pair.right.system().spawn([remote](caf::event_based_actor* self) -> caf::behavior {
    return {[=](const Ping& message) { return self->delegate(remote, message); }};
  });
  pair.right.fabric().publish("broker", caf::actor_cast<caf::strong_actor_ptr>(broker));
  caf::scoped_actor self(pair.left.system());
  BOOST_TEST(ask(self, pair.left.resolve(pair.right_id, "broker"), ping(10)).number == 11);
  caf::anon_send_exit(broker, caf::exit_reason::kill);
  caf::anon_send_exit(worker, caf::exit_reason::kill);
}

BOOST_AUTO_TEST_CASE(typed_actors_work_across_nodes) {
  using Typed = caf::typed_actor<caf::replies_to<Ping>::with<Pong>>;
  Pair pair;
  auto typed = pair.right.system().spawn([](Typed::pointer) -> Typed::behavior_type {
    return {[](const Ping& message) { return pong(number_of(message) * 2); }};
  });
  pair.right.fabric().publish("typed", caf::actor_cast<caf::strong_actor_ptr>(typed));
  auto remote = caf::actor_cast<Typed>(pair.left.fabric().resolve(pair.right_id, "typed"));
  caf::scoped_actor self(pair.left.system());
  std::uint64_t answer = 0;
  self->request(remote, kPatience, ping(21))
      .receive([&](const Pong& message) { answer = number_of(message); }, [](caf::error&) {});
  BOOST_TEST(answer == 42);
}

BOOST_AUTO_TEST_CASE(an_inline_actor_answers_like_any_other) {
  Pair pair;
  pair.right.fabric().run_inline(caf::actor_cast<caf::strong_actor_ptr>(pair.actor));
  caf::scoped_actor self(pair.left.system());
  for (std::uint64_t i = 1; i < 200; ++i) BOOST_TEST(ask(self, pair.remote(), ping(i)).number == i + 1);
}

BOOST_AUTO_TEST_CASE(the_wrong_secret_is_refused_on_both_sides) {
  Node left("left"), stranger("stranger", {}, "another secret");
  auto refused = left.fabric().connect(stranger.fabric().endpoint());
  BOOST_REQUIRE(!refused.ok());
  BOOST_TEST((refused.error().code == ErrorCode::kInvalidArgument));
  BOOST_TEST(refused.error().message.find("secret") != std::string::npos);
  BOOST_TEST(left.fabric().stats().peers == 0);
  BOOST_TEST(stranger.fabric().stats().peers == 0);
  BOOST_TEST((left.fabric().resolve(stranger.fabric().node(), "echo") == nullptr));
}

BOOST_AUTO_TEST_CASE(nobody_there_is_an_error) {
  Limits limits;
  limits.connect_timeout_ms = 1000;
  Node left("left", limits);
  std::string gone;
  {
    Node right("right");
    gone = right.fabric().endpoint();
  }
  BOOST_TEST(!left.fabric().connect(gone).ok());
  BOOST_TEST(!left.fabric().connect("nonsense").ok());
}

BOOST_AUTO_TEST_CASE(a_goodbye_is_a_down_message_and_a_stale_handle_leads_nowhere) {
  Pair pair;
  caf::scoped_actor self(pair.left.system());
  auto remote = pair.remote();
  self->monitor(remote);
  BOOST_TEST(ask(self, remote, ping(1)).number == 2);
  auto lost = std::make_shared<std::promise<NodeId>>();
  auto told = std::make_shared<std::once_flag>();
  pair.left.fabric().on_peer_lost(
      [lost, told](const NodeId& node, const std::string&) { std::call_once(*told, [&] { lost->set_value(node); }); });
  auto earlier = pair.right_id;
  pair.right.stop();
  bool heard = false;
  self->receive([&](const caf::down_msg& down) { heard = down.reason == caf::exit_reason::remote_link_unreachable; },
                caf::after(kPatience) >> [] {});
  BOOST_TEST(heard);
  BOOST_TEST((lost->get_future().get() == earlier));

  // The node comes back under its name: another incarnation, that the old handle does not reach.
  Node again("right");
  auto successor = again.system().spawn(echo);
  again.fabric().publish("echo", caf::actor_cast<caf::strong_actor_ptr>(successor));
  auto id = pair.left.fabric().connect(again.fabric().endpoint());
  BOOST_REQUIRE(id.ok());
  BOOST_TEST(id->incarnation != earlier.incarnation);
  auto before = pair.left.fabric().stats().dropped_stale;
  BOOST_TEST((ask(self, remote, ping(1)).error == caf::sec::request_receiver_down));
  BOOST_TEST(pair.left.fabric().stats().dropped_stale == before + 1);
  BOOST_TEST((pair.left.fabric().resolve(earlier, "echo") == nullptr));
  BOOST_TEST(ask(self, pair.left.resolve(*id, "echo"), ping(1)).number == 2);
  caf::anon_send_exit(successor, caf::exit_reason::kill);
}

BOOST_AUTO_TEST_CASE(a_slow_consumer_bounds_sender_and_receiver) {
  Limits limits;
  limits.credit_bytes = 1 << 20;
  limits.send_queue_bytes = 2 << 20;
  Pair pair(limits);
  std::promise<void> release;
  auto released = release.get_future().share();
  std::atomic<std::uint64_t> received{0};
  auto slow = pair.right.system().spawn<caf::detached>([&, released](caf::event_based_actor*) -> caf::behavior {
    return {[&, released](const Ping&) {
      released.wait();
      ++received;
    }};
  });
  pair.right.fabric().publish("slow", caf::actor_cast<caf::strong_actor_ptr>(slow));
  auto remote = pair.left.resolve(pair.right_id, "slow");
  constexpr std::uint64_t kMessages = 1000;
  for (std::uint64_t i = 1; i <= kMessages; ++i) caf::anon_send(remote, ping(i, 64'000));
  auto sender = [&] { return pair.left.fabric().stats(); };
  auto receiver = [&] { return pair.right.fabric().stats(); };
  // No further message fits into the credit: from here on the queue only grows.
  BOOST_TEST(eventually([&] { return receiver().unreleased_bytes + 65'000 > limits.credit_bytes; }));
  for (std::uint64_t i = 1; i <= kMessages; ++i) caf::anon_send(remote, ping(i, 64'000));
  BOOST_TEST(receiver().unreleased_bytes <= limits.credit_bytes);
  BOOST_TEST(sender().queue_bytes <= limits.send_queue_bytes);
  auto dropped = sender().dropped_overload;
  BOOST_TEST(dropped > 0);
  // A request that finds the queue full is answered at once.
  caf::scoped_actor self(pair.left.system());
  BOOST_TEST((ask(self, remote, ping(1, 64'000)).error == caf::sec::runtime_error));
  release.set_value();
  BOOST_TEST(eventually([&] { return received + dropped == 2 * kMessages; }));
  BOOST_TEST(eventually([&] { return receiver().unreleased_bytes == 0 && sender().queue_bytes == 0; }));
  caf::anon_send_exit(slow, caf::exit_reason::kill);
}

BOOST_AUTO_TEST_CASE(a_message_larger_than_the_credit_still_arrives) {
  Limits limits;
  limits.credit_bytes = 1 << 20;
  Pair pair(limits);
  caf::scoped_actor self(pair.left.system());
  for (std::uint64_t i = 1; i < 5; ++i) {
    BOOST_TEST(ask(self, pair.remote(), ping(i, 3 << 20)).number == i + 1);
    BOOST_TEST(ask(self, pair.remote(), ping(i, 1'000'000)).number == i + 1);
    BOOST_TEST(ask(self, pair.remote(), ping(i)).number == i + 1);
  }
}

BOOST_AUTO_TEST_CASE(channels_carry_frames_that_came_before_they_were_opened) {
  Pair pair;
  auto left = pair.left.fabric().open_channel(pair.right_id, 7);
  std::vector<std::byte> sent(5000, std::byte{3}), got(1 << 20);
  BOOST_REQUIRE(left.send(sent).ok());
  BOOST_REQUIRE(left.send({}).ok());
  BOOST_REQUIRE(left.send(std::vector<std::byte>(1 << 20, std::byte{4})).ok());
  caf::scoped_actor self(pair.left.system());
  BOOST_TEST(ask(self, pair.remote(), ping(1)).number == 2);
  auto right = pair.right.fabric().open_channel(pair.left.fabric().node(), 7);
  auto first = right.receive(got, kPatience);
  BOOST_REQUIRE(first.ok());
  BOOST_TEST(*first == 5000);
  BOOST_TEST((got[4999] == std::byte{3}));
  BOOST_TEST(*right.receive(got, kPatience) == 0);
  auto small = right.receive(std::span(got).first(10), kPatience);
  BOOST_REQUIRE(!small.ok());
  BOOST_TEST((small.error().code == ErrorCode::kResourceExhausted));
  BOOST_TEST(*right.receive(got, kPatience) == 1 << 20);
  auto late = right.receive(got, std::chrono::milliseconds(1));
  BOOST_REQUIRE(!late.ok());
  BOOST_TEST((late.error().code == ErrorCode::kDeadlineExceeded));
}

BOOST_AUTO_TEST_CASE(an_abort_reaches_the_other_end_whether_it_waits_or_not) {
  Pair pair;
  auto left = pair.left.fabric().open_channel(pair.right_id, 1);
  auto right = pair.right.fabric().open_channel(pair.left.fabric().node(), 1);
  auto waiting = std::async(std::launch::async, [&] {
    std::byte byte;
    return right.receive({&byte, 1}, kPatience);
  });
  left.abort();
  const auto received = waiting.get();
  BOOST_REQUIRE(!received.ok());
  BOOST_TEST((received.error().code == ErrorCode::kCancelled));
  BOOST_TEST((right.check().error().code == ErrorCode::kCancelled));
  const std::byte byte{};
  BOOST_TEST(!right.send({&byte, 1}).ok());
}

BOOST_AUTO_TEST_CASE(an_aborted_channel_fails_its_receiver_at_once) {
  Pair pair;
  auto channel = pair.left.fabric().open_channel(pair.right_id, 1);
  auto receiving = std::async(std::launch::async, [&] {
    std::byte byte;
    return channel.receive({&byte, 1}, kPatience);
  });
  channel.abort();
  auto result = receiving.get();
  BOOST_REQUIRE(!result.ok());
  BOOST_TEST((result.error().code == ErrorCode::kCancelled));
  const std::byte more{};
  BOOST_TEST((channel.send({&more, 1}).error().code == ErrorCode::kCancelled));
  auto nowhere = pair.left.fabric().open_channel({"nobody", 1}, 1);
  BOOST_TEST((nowhere.send({&more, 1}).error().code == ErrorCode::kUnavailable));
}

BOOST_AUTO_TEST_CASE(a_full_mailbox_does_not_stop_channels) {
  Limits limits;
  limits.credit_bytes = 1 << 20;
  Pair pair(limits);
  std::promise<void> release;
  auto released = release.get_future().share();
  auto slow = pair.right.system().spawn<caf::detached>(
      [released](caf::event_based_actor*) -> caf::behavior { return {[released](const Ping&) { released.wait(); }}; });
  pair.right.fabric().publish("slow", caf::actor_cast<caf::strong_actor_ptr>(slow));
  for (int i = 0; i < 100; ++i) caf::anon_send(pair.left.resolve(pair.right_id, "slow"), ping(1, 64'000));
  auto left = pair.left.fabric().open_channel(pair.right_id, 1);
  auto right = pair.right.fabric().open_channel(pair.left.fabric().node(), 1);
  std::vector<std::byte> frame(100'000);
  for (int i = 0; i < 50; ++i) {
    BOOST_REQUIRE(left.send(frame).ok());
    BOOST_REQUIRE(right.receive(frame, kPatience).ok());
  }
  release.set_value();
  caf::anon_send_exit(slow, caf::exit_reason::kill);
}

// A transport without copies, or with acknowledgements of its own, ends the process here in one of 100 rounds.
BOOST_AUTO_TEST_CASE(stopping_under_traffic_hangs_nobody) {
  for (int round = 0; round < 25; ++round) {
    Pair pair;
    auto remote = pair.remote();
    std::atomic<bool> stop{false};
    std::thread traffic([&] {
      for (std::uint64_t i = 1; !stop; ++i) caf::anon_send(remote, ping(i, i % 7 == 0 ? 400'000 : 0));
    });
    caf::scoped_actor self(pair.left.system());
    BOOST_TEST(ask(self, remote, ping(1)).number == 2);
    if (round % 2 == 0) {
      pair.left.stop();
    } else {
      pair.right.stop();
    }
    BOOST_TEST(static_cast<bool>(ask(self, remote, ping(1)).error));
    stop = true;
    traffic.join();
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::fabric
