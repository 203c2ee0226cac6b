#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/test/unit_test.hpp>

#include "tests/actors/gateway/gateway_cast.h"
#include "tests/actors/gateway/gateway_fixture.h"

using namespace troupe;
using troupe::testing::Cast;
using troupe::testing::Client;
using troupe::testing::kChat;
using troupe::testing::kCompletion;
using troupe::testing::kImEnd;
using troupe::testing::parsed;

BOOST_AUTO_TEST_SUITE(gateway_answers)

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
        delta.setTokens({id == first ? std::uint32_t{'A'} : std::uint32_t{'B'}});
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

BOOST_AUTO_TEST_SUITE_END()
