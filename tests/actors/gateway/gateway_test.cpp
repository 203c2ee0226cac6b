#include "actors/gateway/gateway.h"

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
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
using troupe::testing::kImEnd;

BOOST_AUTO_TEST_SUITE(gateway)

namespace {

const std::string kChat = R"({"model":"byte-model","messages":[{"role":"user","content":"hi"}])";
const std::string kCompletion = R"({"model":"byte-model","prompt":"hi")";

fabric::Message<schema::Stats> gauge_stats(const std::string& name, double value) {
  return fabric::make_message<schema::Stats>([&](schema::Stats::Builder stats) {
    auto family = stats.initFamilies(1)[0];
    family.setName(name);
    family.setKind(schema::Stats::MetricFamily::Kind::GAUGE);
    family.initMetrics(1)[0].setValue(value);
  });
}

boost::json::object parsed(const std::string& text) { return boost::json::parse(text).as_object(); }

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

BOOST_AUTO_TEST_CASE(a_chat_is_answered_as_one_object) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/chat/completions", kChat + R"(,"max_tokens":9,"frobnicate":1})", "x-request-id: mine-1\r\n");
  const auto id = cast.request_of(cast.generate());
  cast.text(id, "hel");
  cast.tokens(id, {'l', 'o', kImEnd}, schema::FinishReason::STOP);
  const auto response = client.read();
  BOOST_TEST(response.status == 200u);
  BOOST_TEST(response.header("x-request-id") == "mine-1");
  BOOST_TEST(response.header("x-troupe-warning") == "unknown fields ignored: frobnicate");
  const auto body = response.json();
  BOOST_TEST(body.at("object").as_string() == "chat.completion");
  const auto& choice = body.at("choices").at(0);
  BOOST_TEST(choice.at("message").at("content").as_string() == "hello");
  BOOST_TEST(choice.at("finish_reason").as_string() == "stop");
  BOOST_TEST(body.at("usage").at("completion_tokens").as_int64() == 6);
}

BOOST_AUTO_TEST_CASE(a_chat_stream_has_role_content_finish_usage_and_done) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/chat/completions", kChat + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  const auto id = cast.request_of(cast.generate());
  cast.text(id, "a\xc3");  // half of a character is held back
  cast.text(id, "\xa9", schema::FinishReason::LENGTH);
  const auto response = client.read();
  BOOST_TEST(response.complete);
  BOOST_TEST(response.header("content-type") == "text/event-stream; charset=utf-8");
  BOOST_TEST(response.body.find('\r') == std::string::npos);
  const auto events = response.events();
  BOOST_REQUIRE(events.size() == 6u);
  const auto delta = [&](std::size_t i) { return parsed(events[i]).at("choices").at(0).at("delta").as_object(); };
  BOOST_TEST(delta(0).at("role").as_string() == "assistant");
  BOOST_TEST(delta(1).at("content").as_string() == "a");
  BOOST_TEST(delta(2).at("content").as_string() == "\xc3\xa9");
  BOOST_TEST(delta(3).empty());
  BOOST_TEST(parsed(events[3]).at("choices").at(0).at("finish_reason").as_string() == "length");
  BOOST_TEST(parsed(events[4]).at("choices").as_array().empty());
  BOOST_TEST(parsed(events[4]).at("usage").at("completion_tokens").as_int64() == 3);
  BOOST_TEST(events[5] == "[DONE]");
}

BOOST_AUTO_TEST_CASE(usage_tells_how_much_of_all_prompts_was_cached_in_streams_too) {
  for (const bool stream : {false, true}) {
    Cast cast;
    cast.assemble();
    Client client(cast.gateway.port);
    client.post("/v1/completions", std::string(R"({"model":"byte-model","prompt":[[1,2,3],[4,5]])") +
                                       (stream ? R"(,"stream":true,"stream_options":{"include_usage":true}})" : "}"));
    for (const std::uint32_t cached : {2u, 1u}) {
      const auto id = cast.request_of(cast.generate());
      cast.delta([&](schema::Delta::Builder delta) {
        delta.setRequest(id);
        delta.setTokens({'a'});
        delta.setCachedTokens(cached);
      });
      cast.text(id, "b", schema::FinishReason::LENGTH);
    }
    const auto response = client.read();
    const auto body = stream ? parsed(response.events().end()[-2]) : response.json();
    const auto& usage = body.at("usage");
    BOOST_TEST(usage.at("prompt_tokens").as_int64() == 5);
    BOOST_TEST(usage.at("prompt_tokens_details").at("cached_tokens").as_int64() == 3);
  }
}

BOOST_AUTO_TEST_CASE(a_stop_string_across_deltas_ends_the_answer_and_cancels_the_request) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + R"(,"stop":"END"})");
  const auto id = cast.request_of(cast.generate());
  cast.text(id, "one E");
  cast.text(id, "ND two");
  BOOST_TEST(cast.cancelled() == id);
  const auto body = client.read().json();
  BOOST_TEST(body.at("choices").at(0).at("text").as_string() == "one ");
  BOOST_TEST(body.at("choices").at(0).at("finish_reason").as_string() == "stop");
  BOOST_TEST(body.at("usage").at("completion_tokens").as_int64() == 7);
}

BOOST_AUTO_TEST_CASE(several_prompts_become_choices_in_their_order) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", R"({"model":"byte-model","prompt":[[1,2],[3]],"return_token_ids":true})");
  const auto first = cast.request_of(cast.generate());
  const auto second = cast.request_of(cast.generate());
  cast.text(second, "B", schema::FinishReason::LENGTH);
  cast.text(first, "A", schema::FinishReason::LENGTH);
  const auto body = client.read().json();
  const auto& choices = body.at("choices").as_array();
  BOOST_REQUIRE(choices.size() == 2u);
  BOOST_TEST(choices[0].at("text").as_string() == "A");
  BOOST_TEST(choices[1].at("text").as_string() == "B");
  BOOST_TEST(choices[1].at("prompt_token_ids").as_array().size() == 1u);
  BOOST_TEST(choices[1].at("token_ids").at(0).as_int64() == 'B');
}

BOOST_AUTO_TEST_CASE(several_choices_of_a_prompt_count_it_once) {
  for (const bool stream : {false, true}) {
    Cast cast;
    cast.assemble();
    Client client(cast.gateway.port);
    client.post("/v1/completions", std::string(R"({"model":"byte-model","prompt":[1,2,3],"n":2)") +
                                       (stream ? R"(,"stream":true,"stream_options":{"include_usage":true}})" : "}"));
    const auto first = cast.request_of(cast.generate());
    const auto second = cast.request_of(cast.generate());
    for (const auto id : {second, first}) {
      cast.delta([&](schema::Delta::Builder delta) {
        delta.setRequest(id);
        delta.setTokens({id == first ? 'A' : 'B'});
        delta.setCachedTokens(id == first ? 0 : 2);
        delta.setFinish(schema::FinishReason::LENGTH);
      });
    }
    const auto response = client.read();
    const auto body = stream ? parsed(response.events().end()[-2]) : response.json();
    const auto& usage = body.at("usage");
    BOOST_TEST(usage.at("prompt_tokens").as_int64() == 3);
    BOOST_TEST(usage.at("completion_tokens").as_int64() == 2);
    BOOST_TEST(usage.at("prompt_tokens_details").at("cached_tokens").as_int64() == 0);
    if (stream) {
      BOOST_TEST(parsed(response.events()[0]).at("choices").at(0).at("index").as_int64() == 1);
      continue;
    }
    BOOST_TEST(body.at("choices").at(0).at("text").as_string() == "A");
    BOOST_TEST(body.at("choices").at(1).at("text").as_string() == "B");
  }
}

BOOST_AUTO_TEST_CASE(echo_with_logprobs_rates_the_prompt) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + R"(,"echo":true,"max_tokens":0,"logprobs":1})");
  const auto id = cast.request_of(cast.generate());
  cast.delta([&](schema::Delta::Builder delta) {
    delta.setRequest(id);
    delta.setFinish(schema::FinishReason::LENGTH);
    auto rated = delta.initPromptLogprobs(1)[0];
    rated.initChosen().setToken('i');
    rated.getChosen().setLogprob(-0.5f);
    auto top = rated.initTop(1);
    top[0].setToken('x');
    top[0].setLogprob(-0.25f);
  });
  const auto body = client.read().json();
  const auto& choice = body.at("choices").at(0);
  BOOST_TEST(choice.at("text").as_string() == "hi");
  const auto& logprobs = choice.at("logprobs");
  BOOST_REQUIRE(logprobs.at("tokens").as_array().size() == 2u);
  BOOST_TEST(logprobs.at("tokens").at(1).as_string() == "i");
  BOOST_TEST(logprobs.at("token_logprobs").at(0).is_null());
  BOOST_TEST(logprobs.at("token_logprobs").at(1).as_double() == -0.5);
  BOOST_TEST(logprobs.at("top_logprobs").at(1).at("x").as_double() == -0.25);
  BOOST_TEST(logprobs.at("text_offset").at(1).as_int64() == 1);
  BOOST_TEST(body.at("usage").at("completion_tokens").as_int64() == 0);
}

BOOST_AUTO_TEST_CASE(an_echoed_prompt_that_ends_within_a_character_ends_with_one_replacement) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", R"({"model":"byte-model","prompt":[104,226,130],"echo":true,"max_tokens":0})");
  cast.text(cast.request_of(cast.generate()), "", schema::FinishReason::LENGTH);
  BOOST_TEST(client.read().json().at("choices").at(0).at("text").as_string() == "h\uFFFD");
}

BOOST_AUTO_TEST_CASE(a_model_without_a_tokenizer_names_its_tokens) {
  Cast cast([](GatewayOptions& options) { options.model_path = "/nonexistent"; });
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", R"({"model":"byte-model","prompt":[1],"logprobs":0,"return_token_ids":true})");
  const auto id = cast.request_of(cast.generate());
  cast.delta([&](schema::Delta::Builder delta) {
    delta.setRequest(id);
    delta.setFinish(schema::FinishReason::LENGTH);
    delta.initTokens(1).set(0, 7);
    delta.initLogprobs(1)[0].initChosen().setToken(7);
  });
  const auto body = client.read().json();
  const auto& choice = body.at("choices").at(0);
  BOOST_TEST(choice.at("text").as_string() == "");
  BOOST_TEST(choice.at("logprobs").at("tokens").at(0).as_string() == "token_id:7");
  BOOST_TEST(choice.at("token_ids").at(0).as_int64() == 7);
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
