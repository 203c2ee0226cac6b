#include "actors/gateway/gateway.h"

#include <boost/test/unit_test.hpp>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/event_based_actor.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <functional>

#include "actors/names.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"
#include "schema/generate.capnp.h"
#include "tests/actors/gateway/gateway_cast.h"
#include "tests/actors/gateway/gateway_fixture.h"

using namespace troupe;
using troupe::testing::Cast;
using troupe::testing::Client;
using troupe::testing::kByteVocabulary;
using troupe::testing::kChat;
using troupe::testing::kCompletion;
using troupe::testing::parsed;

BOOST_AUTO_TEST_SUITE(gateway)

namespace {

fabric::Message<schema::Stats> gauge_stats(const std::string& name, double value) {
  return fabric::make_message<schema::Stats>([&](schema::Stats::Builder stats) {
    auto family = stats.initFamilies(1)[0];
    family.setName(name);
    family.setKind(schema::Stats::MetricFamily::Kind::GAUGE);
    family.initMetrics(1)[0].setValue(value);
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(readiness_follows_the_scheduler) {
  Cast cast;
  Client client(cast.gateway.port);
  client.get("/health");
  BOOST_TEST(client.read().status == 200u);
  client.get("/ready");
  BOOST_TEST(client.read().status == 503u);
  client.post("/v1/completions", kCompletion + "}");
  BOOST_TEST(client.read().status == 503u);
  BOOST_TEST(cast.assemble());
  client.get("/ready");
  BOOST_TEST(client.read().status == 200u);
  BOOST_TEST(cast.assemble(5));
  BOOST_TEST(!cast.assemble(4));
}

BOOST_AUTO_TEST_CASE(a_client_that_goes_away_cancels_its_request) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/chat/completions", kChat + R"(,"stream":true})");
  const auto id = cast.request_of(cast.generate());
  cast.text(id, "a");
  client.read_until("assistant");
  client.close();
  BOOST_TEST(cast.cancelled() == id);
  Client waiting(cast.gateway.port);
  waiting.post("/v1/completions", kCompletion + "}");
  const auto second = cast.request_of(cast.generate());
  waiting.close();
  BOOST_TEST(cast.cancelled() == second);
}

BOOST_AUTO_TEST_CASE(a_refusal_of_the_scheduler_has_its_status) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/chat/completions", kChat + R"(,"stream":true})");
  const auto id = cast.request_of(cast.generate());
  cast.delta([&](schema::Delta::Builder delta) {
    delta.setRequest(id);
    delta.setFinish(schema::FinishReason::ERROR);
    delta.initError().setCode(schema::ErrorInfo::Code::RESOURCE_EXHAUSTED);
    delta.getError().setMessage("the queue is full");
  });
  const auto response = client.read();
  BOOST_TEST(response.status == 429u);
  BOOST_TEST(response.header("retry-after") == "1");
  BOOST_TEST(response.json().at("error").at("message").as_string() == "the queue is full");
}

BOOST_AUTO_TEST_CASE(a_stream_that_fails_ends_with_an_error_event_and_is_cut) {
  Cast cast;
  cast.assemble();
  Client stream(cast.gateway.port);
  stream.post("/v1/chat/completions", kChat + R"(,"stream":true})");
  const auto id = cast.request_of(cast.generate());
  Client whole(cast.gateway.port);
  whole.post("/v1/completions", kCompletion + "}");
  cast.generate();
  cast.text(id, "a");
  stream.read_until("assistant");
  cast.self->send(cast.gateway.actor, fabric::make_message<schema::Lost>([](schema::Lost::Builder lost) {
                    lost.initActors(1).set(0, "scheduler/0");
                    lost.setReason("node left died");
                  }));
  const auto response = stream.read();
  BOOST_TEST(!response.complete);
  const auto error = parsed(response.events().back());
  BOOST_TEST(!error.contains("choices"));
  BOOST_TEST(error.at("error").at("message").as_string().find("node left died") != boost::json::string::npos);
  BOOST_TEST(response.body.find("[DONE]") == std::string::npos);
  BOOST_TEST(whole.read().status == 503u);
  Client client(cast.gateway.port);
  client.get("/ready");
  BOOST_TEST(client.read().status == 503u);
  BOOST_TEST(cast.assemble(2));
  client.get("/ready");
  BOOST_TEST(client.read().status == 200u);
}

BOOST_AUTO_TEST_CASE(a_scheduler_that_dies_fails_what_is_in_flight) {
  Cast cast;
  const caf::actor dying = cast.system.spawn([](caf::event_based_actor* self) -> caf::behavior {
    return {[self](const fabric::Message<schema::Generate>&) { self->quit(caf::exit_reason::kill); }};
  });
  cast.scheduler = dying;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + "}");
  BOOST_TEST(client.read().status == 503u);
}

// Takes requests, answers none, and tells the test their first prompt tokens.
caf::actor other_scheduler(Cast& cast) {
  return cast.system.spawn(
      [to = caf::actor_cast<caf::actor>(cast.self)](caf::event_based_actor* self) -> caf::behavior {
        return {[=](const fabric::Message<schema::Generate>& message) { self->send(to, message); },
                [=](const fabric::Message<schema::Cancel>& message) { self->send(to, message); }};
      });
}

BOOST_AUTO_TEST_CASE(a_lost_replica_fails_its_own_requests_only) {
  Cast cast;
  const caf::actor other = other_scheduler(cast);
  cast.others["scheduler/1"] = other;
  BOOST_TEST(cast.assemble(1, 0));
  BOOST_TEST(cast.assemble(2, 1));
  Client first(cast.gateway.port), second(cast.gateway.port);
  first.post("/v1/completions", kCompletion + "}");
  const auto of_first = cast.request_of(cast.generate());
  second.post("/v1/completions", kCompletion + "}");
  cast.generate();
  // Both are loaded alike: they went to one replica each, the first to replica 0.
  caf::anon_send_exit(other, caf::exit_reason::kill);
  BOOST_TEST(second.read().status == 503u);
  Client third(cast.gateway.port);
  third.get("/ready");
  BOOST_TEST(third.read().status == 200u);
  third.post("/v1/completions", kCompletion + "}");
  const auto of_third = cast.request_of(cast.generate());
  for (const auto id : {of_first, of_third}) cast.text(id, "a", schema::FinishReason::LENGTH);
  BOOST_TEST(first.read().status == 200u);
  BOOST_TEST(third.read().status == 200u);
}

BOOST_AUTO_TEST_CASE(draining_lets_streams_finish_until_the_deadline) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/chat/completions", kChat + R"(,"stream":true})");
  const auto id = cast.request_of(cast.generate());
  Client late(cast.gateway.port);
  late.post("/v1/chat/completions", kChat + R"(,"stream":true})");
  const auto cut = cast.request_of(cast.generate());
  cast.text(cut, "b");
  late.read_until("assistant");
  cast.self
      ->request(cast.gateway.actor, std::chrono::seconds(30),
                fabric::make_message<schema::Drain>([](schema::Drain::Builder drain) { drain.setDeadlineMs(300); }))
      .receive([](const fabric::Message<schema::Outcome>&) {},
               [](const caf::error&) { BOOST_ERROR("the gateway does not answer Drain"); });
  // At the deadline both were cut off: one had its head already, the other gets a status.
  BOOST_TEST(!late.read().complete);
  BOOST_TEST(client.read().status == 503u);
  const std::uint64_t first = cast.cancelled();
  const std::uint64_t second = cast.cancelled();
  BOOST_TEST(std::min(first, second) == std::min(id, cut));
  BOOST_TEST(std::max(first, second) == std::max(id, cut));
}

BOOST_AUTO_TEST_CASE(a_wrong_key_a_wrong_model_and_a_wrong_path_have_their_errors) {
  Cast cast([](GatewayOptions& options) { options.api_keys = {"secret", "other"}; });
  cast.assemble();
  Client client(cast.gateway.port);
  client.get("/v1/models");
  BOOST_TEST(client.read().status == 401u);
  client.get("/v1/models", "Authorization: Bearer secre\r\n");
  BOOST_TEST(client.read().status == 401u);
  client.get("/v1/models", "authorization: bearer other\r\n");
  const auto models = client.read().json();
  BOOST_TEST(models.at("data").at(0).at("max_model_len").as_int64() == 512);
  BOOST_TEST(models.at("data").at(0).at("vocab_size").as_int64() == kByteVocabulary);
  const std::string key = "Authorization: Bearer secret\r\n";
  client.get("/v1/models/nope", key);
  BOOST_TEST(client.read().json().at("error").at("code").as_string() == "model_not_found");
  client.post("/v1/completions", R"({"model":"nope","prompt":"x"})", key);
  const auto missing = client.read();
  BOOST_TEST(missing.status == 404u);
  BOOST_TEST(missing.json().at("error").at("param").as_string() == "model");
  client.get("/v1/completions", key);
  const auto wrong_method = client.read();
  BOOST_TEST(wrong_method.status == 405u);
  BOOST_TEST(wrong_method.header("allow") == "POST, OPTIONS");
  client.get("/nowhere");
  BOOST_TEST(client.read().status == 404u);
  client.post("/v1/completions", "{", key);
  const auto broken = client.read();
  BOOST_TEST(broken.status == 400u);
  BOOST_TEST(broken.json().at("error").at("type").as_string() == "invalid_request_error");
}

BOOST_AUTO_TEST_CASE(requests_beyond_the_limit_get_429) {
  Cast cast([](GatewayOptions& options) { options.limits.requests_in_flight = 2; });
  cast.assemble();
  Client first(cast.gateway.port);
  first.post("/v1/completions", R"({"model":"byte-model","prompt":[[1],[2]]})");
  const auto id = cast.request_of(cast.generate());
  const auto next = cast.request_of(cast.generate());
  Client second(cast.gateway.port);
  second.post("/v1/completions", kCompletion + "}");
  const auto refused = second.read();
  BOOST_TEST(refused.status == 429u);
  BOOST_TEST(refused.header("retry-after") == "1");
  cast.text(id, "a", schema::FinishReason::LENGTH);
  cast.text(next, "a", schema::FinishReason::LENGTH);
  BOOST_TEST(first.read().status == 200u);
}

BOOST_AUTO_TEST_CASE(metrics_show_the_gateway_and_the_scheduler) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + "}");
  const auto id = cast.request_of(cast.generate());
  cast.text(id, "ab");
  cast.text(id, "c", schema::FinishReason::LENGTH);
  BOOST_TEST(client.read().status == 200u);
  client.get("/metrics");
  cast.self->receive(
      [](const fabric::Message<schema::StatsRequest>&) { return gauge_stats("troupe_scheduler_waiting_requests", 3); });
  const std::string body = client.read().body;
  for (const char* line :
       {"troupe_scheduler_waiting_requests 3\n", "troupe_generated_tokens_total 3\n", "troupe_prompt_tokens_total 2\n",
        "troupe_http_requests_total{endpoint=\"completions\",status=\"200\"} 1\n",
        "troupe_time_to_first_token_seconds_count 1\n", "troupe_inter_token_latency_seconds_count 1\n",
        "troupe_request_duration_seconds_count 1\n"}) {
    BOOST_TEST(body.find(line) != std::string::npos, "missing: " << line);
  }
}

BOOST_AUTO_TEST_CASE(metrics_show_every_actor_of_the_cluster_and_every_nodes_supervisor) {
  Cast cast;
  const auto reporter = [](const char* name) {
    return [name](caf::event_based_actor*) -> caf::behavior {
      return {[name](const fabric::Message<schema::StatsRequest>&) { return gauge_stats(name, 7); }};
    };
  };
  cast.scheduler = cast.system.spawn(reporter("troupe_of_the_scheduler"));
  cast.others["shard/0/0/0"] = cast.system.spawn(reporter("troupe_of_the_shard"));
  cast.others["supervisor"] = cast.system.spawn(reporter("troupe_of_the_node"));
  cast.assemble();
  Client client(cast.gateway.port);
  client.get("/metrics");
  const std::string body = client.read().body;
  for (const char* line : {"troupe_of_the_scheduler 7\n", "troupe_of_the_shard 7\n", "troupe_of_the_node 7\n"}) {
    BOOST_TEST(body.find(line) != std::string::npos, "missing: " << line);
  }
}

// Answers every request with as many tokens as it may have, one Delta for all of them at a time.
static caf::behavior talkative_scheduler(caf::event_based_actor* self, std::size_t expected) {
  struct Waiting {
    std::uint64_t request;
    std::uint32_t tokens;
  };
  auto waiting = std::make_shared<std::vector<Waiting>>();
  return {[self, waiting, expected](const fabric::Message<schema::Generate>& message) {
    const auto generate = message.read();
    waiting->push_back({generate->getRequest(), generate->getMaxTokens()});
    if (waiting->size() < expected) return;
    const auto gateway = caf::actor_cast<caf::actor>(self->current_sender());
    const std::uint32_t steps = waiting->front().tokens;
    for (std::uint32_t step = 1; step <= steps; ++step) {
      self->send(gateway, fabric::make_message<schema::Deltas>([&](schema::Deltas::Builder deltas) {
                   auto items = deltas.initItems(static_cast<unsigned>(waiting->size()));
                   for (unsigned i = 0; i < items.size(); ++i) {
                     items[i].setRequest((*waiting)[i].request);
                     items[i].initTokens(1).set(0, 'x');
                     if (step == steps) items[i].setFinish(schema::FinishReason::LENGTH);
                   }
                 }));
    }
  }};
}

BOOST_AUTO_TEST_CASE(a_thousand_streams_run_at_once) {
  constexpr std::size_t kStreams = 1000;
  Cast cast;
  cast.scheduler = cast.system.spawn(talkative_scheduler, kStreams);
  cast.assemble();
  std::vector<std::unique_ptr<Client>> clients;
  for (std::size_t i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<Client>(cast.gateway.port));
    clients.back()->post("/v1/chat/completions", kChat + R"(,"stream":true,"max_tokens":20})");
  }
  std::size_t whole = 0;
  for (const auto& client : clients) {
    const auto response = client->read();
    whole += response.complete && response.events().size() == 23 && response.events().back() == "[DONE]";
  }
  BOOST_TEST(whole == kStreams);
  caf::anon_send_exit(cast.scheduler, caf::exit_reason::user_shutdown);
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused_by_name) {
  caf::actor_system_config config;
  caf::actor_system system(config);
  const auto error = [&](std::function<void(GatewayOptions&)> change) {
    GatewayOptions options;
    options.served_name = "m";
    options.vocab_size = 1;
    options.max_model_len = 1;
    options.listen = "127.0.0.1:0";
    change(options);
    const auto gateway = spawn_gateway(system, options);
    return gateway.ok() ? std::string("none") : gateway.error().param;
  };
  for (const char* listen : {"", "8080", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x", "::1:80"}) {
    BOOST_TEST(error([&](GatewayOptions& options) { options.listen = listen; }) == "listen");
  }
  BOOST_TEST(error([](GatewayOptions& options) { options.served_name = ""; }) == "served_name");
  BOOST_TEST(error([](GatewayOptions& options) { options.vocab_size = 0; }) == "vocab_size");
  BOOST_TEST(error([](GatewayOptions& options) { options.max_model_len = 0; }) == "max_model_len");
}

BOOST_AUTO_TEST_SUITE_END()
