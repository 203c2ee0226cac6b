#include <boost/test/unit_test.hpp>
#include <set>

#include "actors/gateway/api_error.h"
#include "actors/gateway/api_keys.h"
#include "actors/gateway/request_plan.h"
#include "actors/gateway/scheduler_room.h"
#include "runtime/engine/error_info.h"
#include "tests/actors/gateway/gateway_cast.h"

using namespace troupe;
using troupe::testing::Cast;
using troupe::testing::Client;
using troupe::testing::id_model;

namespace {

const std::string kCompletion = R"({"model":"byte-model","prompt":"hi")";

void refuse(Cast& cast, std::uint64_t request, const Error& error) {
  cast.delta([&](schema::Delta::Builder delta) {
    delta.setRequest(request);
    delta.setFinish(schema::FinishReason::ERROR);
    engine::write_error(error, delta.initError());
  });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(overload)

BOOST_AUTO_TEST_CASE(each_key_is_a_tenant_whose_number_tells_nothing_of_it) {
  const std::vector<std::string> keys = {"one", "two", "three"};
  const ApiKeys first(keys), second(keys);
  std::set<std::uint64_t> tenants;
  for (const std::string& key : keys) {
    const auto tenant = first.tenant_of("Bearer " + key);
    BOOST_REQUIRE(tenant.has_value());
    tenants.insert(*tenant);
    BOOST_TEST(first.tenant_of("bearer " + key).value() == *tenant);
    BOOST_TEST(second.tenant_of("Bearer " + key).value() != *tenant);  // of another salt
  }
  BOOST_TEST(tenants.size() == 3u);
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "one"}) {
    BOOST_TEST(!first.tenant_of(wrong));
  }
  BOOST_TEST(ApiKeys({}).tenant_of("").value() == 0u);
}

BOOST_AUTO_TEST_CASE(a_request_tells_the_scheduler_whose_it_is_how_urgent_and_by_when) {
  Cast cast([](GatewayOptions& options) { options.api_keys = {"one", "two"}; });
  cast.assemble();
  std::vector<std::uint64_t> tenants;
  for (const char* key : {"one", "two", "one"}) {
    Client client(cast.gateway.port);
    client.post("/v1/completions", kCompletion + R"(,"priority":-7,"timeout":20})",
                std::string("Authorization: Bearer ") + key + "\r\n");
    const auto message = cast.generate();
    const auto generate = message.read();
    tenants.push_back(generate->getTenant());
    BOOST_TEST(generate->getPriority() == -7);
    BOOST_TEST(generate->getDeadlineMs() > 0u);
    BOOST_TEST(generate->getDeadlineMs() <= 20'000u);
    cast.text(generate->getRequest(), "a", schema::FinishReason::LENGTH);
    BOOST_TEST(client.read().status == 200u);
  }
  BOOST_TEST(tenants[0] != 0u);
  BOOST_TEST(tenants[0] != tenants[1]);
  BOOST_TEST(tenants[0] == tenants[2]);
}

BOOST_AUTO_TEST_CASE(each_choice_says_what_follows_it) {
  const auto model = id_model();
  auto plan = plan_completion(R"({"model":"m","prompt":[[1],[2,3],[4,5,6]]})", *model, Limits{});
  BOOST_REQUIRE(plan.ok());
  const std::uint64_t tokens[] = {5, 3, 0};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto generate = generate_message(*plan, i, 10 + i, 0).read();
    BOOST_TEST(generate->getSiblings() == 2 - i);
    BOOST_TEST(generate->getSiblingTokens() == tokens[i]);
  }
}

BOOST_AUTO_TEST_CASE(a_refusal_says_when_to_ask_again_in_both_headers) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + "}");
  Error full = resource_exhausted("the queue is full", "queue");
  full.retry_after_ms = 2'001;
  refuse(cast, cast.request_of(cast.generate()), full);
  const auto refused = client.read();
  BOOST_TEST(refused.status == 429u);
  BOOST_TEST(refused.header("retry-after") == "3");
  BOOST_TEST(refused.header("retry-after-ms") == "2001");
  BOOST_TEST(refused.json().at("error").at("code").as_string() == "rate_limit_exceeded");
}

BOOST_AUTO_TEST_CASE(a_request_out_of_time_is_answered_once_and_for_all) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + R"(,"timeout":5})");
  refuse(cast, cast.request_of(cast.generate()), deadline_exceeded("over", "timeout"));
  const auto refused = client.read();
  BOOST_TEST(refused.status == 504u);
  BOOST_TEST(refused.header("x-should-retry") == "false");
  BOOST_TEST(refused.json().at("error").at("code").as_string() == "deadline_exceeded");
  BOOST_TEST(refused.json().at("error").at("param").as_string() == "timeout");
  // A step that never came back is no fault of the client's.
  BOOST_TEST(error_response(api_error(deadline_exceeded("no result"))).headers.empty());
}

BOOST_AUTO_TEST_CASE(a_stream_out_of_time_ends_with_an_error_event) {
  Cast cast;
  cast.assemble();
  Client client(cast.gateway.port);
  client.post("/v1/completions", kCompletion + R"(,"timeout":5,"stream":true})");
  const auto request = cast.request_of(cast.generate());
  cast.text(request, "a");
  refuse(cast, request, deadline_exceeded("over", "timeout"));
  const std::string all = client.read_all();
  BOOST_TEST(all.find("deadline_exceeded") != std::string::npos);
  BOOST_TEST(all.find("[DONE]") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_queue_that_is_known_to_be_full_is_not_asked) {
  Cast cast;
  cast.assemble();
  Client running(cast.gateway.port);
  running.post("/v1/completions", kCompletion + R"(,"stream":true})");
  const auto request = cast.request_of(cast.generate());
  const auto tell = [&](std::uint32_t room, std::uint32_t retry_after_ms) {
    cast.self->send(cast.gateway.actor, fabric::make_message<schema::Deltas>([&](schema::Deltas::Builder deltas) {
                      deltas.setQueueRoom(room);
                      deltas.setRetryAfterMs(retry_after_ms);
                      auto delta = deltas.initItems(1)[0];
                      delta.setRequest(request);
                      delta.setTokens({'a'});
                    }));
  };
  tell(0, 1'500);
  running.read_until("text");
  Client client(cast.gateway.port);
  client.post("/v1/completions", "what is no JSON is refused unread");
  const auto refused = client.read();
  BOOST_TEST(refused.status == 429u);
  BOOST_TEST(refused.header("retry-after") == "2");
  BOOST_TEST(refused.header("retry-after-ms") == "1500");
  BOOST_TEST(refused.json().at("error").at("param").as_string() == "queue");

  // When the last answer has ended nothing is known any more.
  cast.text(request, "b", schema::FinishReason::LENGTH);
  running.read_until("[DONE]");
  // The actor answers this when it is done with what ended the stream.
  cast.self
      ->request(cast.gateway.actor, std::chrono::seconds(30),
                fabric::make_message<schema::StatsRequest>([](schema::StatsRequest::Builder) {}))
      .receive([](const fabric::Message<schema::Stats>&) {},
               [](const caf::error&) { BOOST_ERROR("the gateway does not answer StatsRequest"); });
  client.post("/v1/completions", kCompletion + "}");
  cast.text(cast.request_of(cast.generate()), "c", schema::FinishReason::LENGTH);
  BOOST_TEST(client.read().status == 200u);
}

BOOST_AUTO_TEST_CASE(what_is_on_its_way_counts_until_the_scheduler_tells_again) {
  SchedulerRoom room(2);
  BOOST_TEST(!room.enter(), "there is no scheduler");
  room.add(0);
  SchedulerRoom::Ticket first = room.enter(), second = room.enter();
  BOOST_TEST((first && second && !room.enter()));
  first.reset();
  room.sent(0, 1);
  BOOST_TEST(!room.enter());
  second.reset();
  BOOST_TEST(!!room.enter());
  room.tell(0, 5, 700);
  room.sent(0, 4);
  BOOST_TEST(!!room.enter());
  room.sent(0, 1);
  BOOST_TEST(!room.enter());
  BOOST_TEST(room.retry_after_ms() == 700u);
  room.tell(0, 0, 900);
  BOOST_TEST(!room.enter());
  room.add(1);
  BOOST_TEST(!!room.enter(), "another replica has room");
  room.tell(1, 0, 300);
  BOOST_TEST(!room.enter());
  BOOST_TEST(room.retry_after_ms() == 300u);
  room.remove(1);
  room.forget();
  BOOST_TEST(!!room.enter());
}

BOOST_AUTO_TEST_SUITE_END()
