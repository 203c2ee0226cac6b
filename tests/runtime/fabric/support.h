#pragma once

#include <caf/all.hpp>

#include <memory>
#include <string>

#include "runtime/fabric/fabric.h"
#include "schema/cluster.capnp.h"
#include "schema/generate.capnp.h"

namespace troupe::fabric::test {

using Ping = Message<schema::Generate>;  // `request` is a sequence number, `tokens` whatever the test wants
using Pong = Message<schema::Cancel>;    // `request` is an answer
using Report = Message<schema::LoadProgress>;

Ping ping(std::uint64_t number, std::size_t attachment_bytes = 0);
Pong pong(std::uint64_t number);
std::uint64_t number_of(const Ping& message);
std::uint64_t number_of(const Pong& message);

inline constexpr auto kPatience = std::chrono::seconds(60);  // ends a test that hangs; never a measure

// An actor system and a fabric in this process.
class Node {
 public:
  explicit Node(const std::string& name, Limits limits = {}, const std::string& secret = "cluster secret",
                const std::string& transports = "");
  ~Node();

  Fabric& fabric() { return *fabric_; }
  caf::actor_system& system() { return system_; }
  caf::actor resolve(const NodeId& node, const std::string& name);
  void stop() { fabric_.reset(); }

 private:
  struct Config : caf::actor_system_config {
    Config();
  };
  Config config_;
  caf::actor_system system_;
  std::unique_ptr<Fabric> fabric_;
};

// Answers Ping n with Pong n + 1 and as many pings as it got; ends when it gets Pong 0; keeps a Ping with request
// 0 unanswered; delegates a Ping whose first token is 1 to `next`.
caf::behavior echo(caf::event_based_actor* self);

// Sends one request and waits for its outcome.
struct Outcome {
  std::uint64_t number = 0;
  caf::error error;
};
Outcome ask(caf::scoped_actor& self, const caf::actor& actor, const Ping& message);

// The process of fabric_peer.cpp: one node with an actor "echo" in it.
class PeerProcess {
 public:
  PeerProcess(const std::string& name, const std::string& transports, const std::string& connect_to = "");
  ~PeerProcess();  // kills it
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  int pid() const { return pid_; }
  void signal(int number);
  void kill_and_wait();

 private:
  int pid_ = -1;
  int input_ = -1;  // closed = the process ends by itself
  std::string endpoint_;
};

}  // namespace troupe::fabric::test
