// Other processes: killed, stopped, hostile.
#include <signal.h>

#include <boost/test/unit_test.hpp>
#include <future>

#include "tests/runtime/fabric/hostile_client.h"
#include "tests/runtime/fabric/support.h"

namespace troupe::fabric {
namespace {

using namespace test;

NodeId connect(Node& node, const PeerProcess& peer) {
  auto id = node.fabric().connect(peer.endpoint());
  if (!id) BOOST_FAIL(id.error().message);
  return *id;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(fabric_processes)

BOOST_AUTO_TEST_CASE(a_killed_peer_downs_monitors_and_fails_pending_requests) {
  for (const char* transports : {"tcp", "shm,tcp"}) {
    BOOST_TEST_CONTEXT(transports) {
      Node node("left", {}, "cluster secret", transports);
      PeerProcess peer("right", transports);
      auto id = connect(node, peer);
      auto remote = node.resolve(id, "echo");
      caf::scoped_actor self(node.system());
      BOOST_TEST(ask(self, remote, ping(1, 2 << 20)).number == 2);
      self->monitor(remote);
      auto channel = node.fabric().open_channel(id, 9);
      auto pending = std::async(std::launch::async, [&] {
        caf::scoped_actor asker(node.system());
        return ask(asker, remote, ping(0));
      });
      auto receiving = std::async(std::launch::async, [&] {
        std::byte byte;
        return channel.receive({&byte, 1}, kPatience);
      });
      BOOST_TEST(ask(self, remote, ping(1)).number == 2);
      peer.kill_and_wait();
      bool heard = false;
      self->receive(
          [&](const caf::down_msg& down) {
            heard = down.source == remote && down.reason == caf::exit_reason::remote_link_unreachable;
          },
          caf::after(kPatience) >> [] {});
      BOOST_TEST(heard);
      BOOST_TEST((pending.get().error == caf::sec::request_receiver_down));
      auto received = receiving.get();
      BOOST_REQUIRE(!received.ok());
      BOOST_TEST((received.error().code == ErrorCode::kUnavailable));
      BOOST_TEST(node.fabric().stats().peers == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_stopped_peer_is_declared_dead) {
  Limits limits;
  limits.heartbeat_interval_ms = 50;
  limits.heartbeat_timeout_ms = 300;
  Node node("left", limits);
  PeerProcess peer("right", "tcp");
  auto remote = node.resolve(connect(node, peer), "echo");
  caf::scoped_actor self(node.system());
  BOOST_TEST(ask(self, remote, ping(1)).number == 2);
  peer.signal(SIGSTOP);
  BOOST_TEST((ask(self, remote, ping(1)).error == caf::sec::request_receiver_down));
}

BOOST_AUTO_TEST_CASE(a_restarted_peer_is_another_incarnation) {
  Node node("left");
  caf::scoped_actor self(node.system());
  NodeId first;
  caf::actor stale;
  {
    PeerProcess peer("right", "tcp");
    first = connect(node, peer);
    stale = node.resolve(first, "echo");
    BOOST_TEST(ask(self, stale, ping(1)).number == 2);
  }
  PeerProcess peer("right", "tcp");
  auto second = connect(node, peer);
  BOOST_TEST(second.incarnation != first.incarnation);
  BOOST_TEST((ask(self, stale, ping(1)).error == caf::sec::request_receiver_down));
  BOOST_TEST(ask(self, node.resolve(second, "echo"), ping(1)).number == 2);
}

BOOST_AUTO_TEST_CASE(a_channel_echoes_between_processes) {
  Node node("left");
  std::promise<NodeId> seen;
  PeerProcess peer("right", "tcp", node.fabric().endpoint());
  auto channel = node.fabric().open_channel(connect(node, peer), 1);
  std::vector<std::byte> frame(1 << 20), back(1 << 20);
  for (std::size_t size : {0, 1, 4096, 300'000, 1 << 20}) {
    std::fill(frame.begin(), frame.end(), static_cast<std::byte>(size + 1));
    BOOST_REQUIRE(channel.send(std::span(frame).first(size)).ok());
    auto received = channel.receive(back, kPatience);
    BOOST_REQUIRE(received.ok());
    BOOST_TEST(*received == size);
    BOOST_TEST(std::equal(frame.begin(), frame.begin() + size, back.begin()));
  }
}

BOOST_AUTO_TEST_CASE(hostile_frames_close_their_connection_and_nothing_else) {
  Limits limits;
  limits.handshake_timeout_ms = 500;
  Node node("left", limits);
  PeerProcess peer("right", "tcp");
  auto remote = node.resolve(connect(node, peer), "echo");
  caf::scoped_actor self(node.system());
  for (auto attack : kStrangerAttacks) {
    BOOST_TEST_CONTEXT(attack.name) {
      HostileClient client(node.fabric().endpoint());
      attack.run(client);
      BOOST_TEST(client.is_closed_by_peer());
      BOOST_TEST(ask(self, remote, ping(1)).number == 2);
    }
  }
  for (auto attack : kMemberAttacks) {
    BOOST_TEST_CONTEXT(attack.name) {
      HostileClient client(node.fabric().endpoint());
      client.join("cluster secret", schema_message_types().fingerprint());
      attack.run(client);
      BOOST_TEST(client.is_closed_by_peer());
      BOOST_TEST(ask(self, remote, ping(1)).number == 2);
    }
  }
  BOOST_TEST(node.fabric().stats().peers == 1);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::fabric
