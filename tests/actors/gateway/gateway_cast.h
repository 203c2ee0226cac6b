#pragma once

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/test/unit_test.hpp>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "actors/gateway/gateway.h"
#include "actors/names.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"
#include "schema/generate.capnp.h"
#include "tests/actors/gateway/gateway_fixture.h"

namespace troupe::testing {

// The beginnings of requests, to which parameters and a brace are added.
inline const std::string kChat = R"({"model":"byte-model","messages":[{"role":"user","content":"hi"}])";
inline const std::string kCompletion = R"({"model":"byte-model","prompt":"hi")";

inline boost::json::object parsed(const std::string& text) { return boost::json::parse(text).as_object(); }

// A gateway whose scheduler is this test: it looks at what arrives and says what comes back.
struct Cast {
  explicit Cast(std::function<void(GatewayOptions&)> change = [](GatewayOptions&) {}) : system(config), self(system) {
    GatewayOptions options;
    options.listen = "127.0.0.1:0";
    options.served_name = "byte-model";
    options.model_path = directory.path();
    options.vocab_size = kByteVocabulary;
    options.max_model_len = 512;
    options.eos_token_ids = {kImEnd};
    options.resolver = [this](schema::ActorAddress::Reader address) {
      if (address.getActor() == "scheduler/0") return scheduler;
      const auto found = others.find(address.getActor());
      return found == others.end() ? caf::actor{} : found->second;
    };
    change(options);
    scheduler = caf::actor_cast<caf::actor>(self);
    auto spawned = spawn_gateway(system, std::move(options));
    BOOST_REQUIRE(spawned.ok());
    gateway = std::move(spawned).value();
  }

  ~Cast() {
    caf::anon_send_exit(gateway.actor, caf::exit_reason::user_shutdown);
    self->wait_for(gateway.actor);
    scheduler = nullptr;
  }

  // The gateway's answer to an Assemble of this epoch.
  bool assemble(std::uint64_t epoch = 1, std::uint32_t replica = 0) {
    bool ok = false;
    self->request(gateway.actor, std::chrono::seconds(30),
                  fabric::make_message<schema::Assemble>([&](schema::Assemble::Builder assemble) {
                    assemble.setReplica(replica);
                    assemble.setEpoch(epoch);
                    auto actors = assemble.initActors(static_cast<unsigned>(1 + others.size()));
                    actors[0].setActor(scheduler_name(replica));
                    unsigned next = 1;
                    for (const auto& [name, actor] : others) actors[next++].setActor(name);
                  }))
        .receive(
            [&](const fabric::Message<schema::Outcome>& outcome) {
              const auto reader = outcome.read();
              ok = reader->isOk();
            },
            [](const caf::error&) { BOOST_ERROR("the gateway does not answer Assemble"); });
    return ok;
  }

  fabric::Message<schema::Generate> generate() {
    fabric::Message<schema::Generate> received;
    self->receive([&](const fabric::Message<schema::Generate>& message) { received = message; },
                  caf::after(std::chrono::seconds(30)) >> [] { throw std::runtime_error("no Generate came"); });
    return received;
  }

  std::uint64_t cancelled() {
    std::uint64_t request = 0;
    self->receive(
        [&](const fabric::Message<schema::Cancel>& message) {
          const auto reader = message.read();
          request = reader->getRequest();
        },
        caf::after(std::chrono::seconds(30)) >> [] { throw std::runtime_error("no Cancel came"); });
    return request;
  }

  void delta(const std::function<void(schema::Delta::Builder)>& fill) {
    self->send(gateway.actor, fabric::make_message<schema::Deltas>(
                                  [&](schema::Deltas::Builder deltas) { fill(deltas.initItems(1)[0]); }));
  }

  void tokens(std::uint64_t request, const std::vector<std::uint32_t>& ids,
              schema::FinishReason finish = schema::FinishReason::NONE) {
    delta([&](schema::Delta::Builder delta) {
      delta.setRequest(request);
      delta.setTokens({ids.data(), ids.size()});
      delta.setFinish(finish);
    });
  }

  void text(std::uint64_t request, std::string_view text, schema::FinishReason finish = schema::FinishReason::NONE) {
    std::vector<std::uint32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    tokens(request, ids, finish);
  }

  std::uint64_t request_of(const fabric::Message<schema::Generate>& message) {
    const auto reader = message.read();
    return reader->getRequest();
  }

  ByteModelDirectory directory;
  caf::actor_system_config config;
  caf::actor_system system;
  caf::scoped_actor self;
  caf::actor scheduler;
  std::map<std::string, caf::actor> others;  // that an Assemble names beside the scheduler
  Gateway gateway;
};

}  // namespace troupe::testing
