#include "cluster/http/http_connections.h"

#include <boost/test/unit_test.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/cluster/http/scripted_server.h"

namespace troupe::cluster {
namespace {

using namespace std::chrono_literals;

// Requests one after the other through one pool of connections.
class Client {
 public:
  explicit Client(std::uint16_t port, HttpTimeouts timeouts = {})
      : connections_(io_, {"127.0.0.1", port, ""}, timeouts) {}

  HttpOutcome post(const std::function<bool(std::string_view)>& on_event = {}) {
    std::optional<HttpOutcome> outcome;
    events.clear();
    connections_.start(
        {.post = true, .target = "/v1/completions", .body = "{}"},
        [&](std::string_view data, auto) {
          events.emplace_back(data);
          return !on_event || on_event(data);
        },
        [&](HttpOutcome ended) { outcome = std::move(ended); });
    while (!outcome) io_.run_one();
    return *outcome;
  }

  HttpConnections& connections() { return connections_; }

  std::vector<std::string> events;  // of the last request

 private:
  boost::asio::io_context io_{1};
  HttpConnections connections_;
};

ScriptedServer::Script always(std::string bytes, bool close = true) {
  return [bytes = std::move(bytes), close](std::size_t, const std::string&) {
    return ScriptedServer::Reply{bytes, close};
  };
}

HttpOutcome outcome_of(std::string bytes, bool close = true, HttpTimeouts timeouts = {}) {
  ScriptedServer server(always(std::move(bytes), close));
  return Client(server.port(), timeouts).post();
}

}  // namespace

BOOST_AUTO_TEST_CASE(events_come_in_order_and_the_connection_is_used_again) {
  ScriptedServer server(always(completion_stream(3, 5), false));
  Client client(server.port());
  for (int i = 0; i < 4; ++i) {
    const HttpOutcome outcome = client.post();
    BOOST_TEST((outcome.ending == HttpEnding::kComplete));
    BOOST_TEST(outcome.answer.status == 200);
    BOOST_REQUIRE(client.events.size() == 5u);
    BOOST_TEST(client.events.back() == "[DONE]");
  }
  BOOST_TEST(server.requests() == 4u);
  BOOST_TEST(server.connections() == 1u);
}

BOOST_AUTO_TEST_CASE(a_connection_that_the_server_closed_is_replaced) {
  // Nothing in its answer says that the server closes after it.
  ScriptedServer server(always(http_answer(200, "application/json", "{}"), true));
  Client client(server.port());
  for (int i = 0; i < 3; ++i) BOOST_TEST((client.post().ending == HttpEnding::kComplete));
  BOOST_TEST(server.requests() == 3u);
  BOOST_TEST(server.connections() == 3u);
}

BOOST_AUTO_TEST_CASE(a_request_that_an_old_connection_swallowed_is_sent_again) {
  ScriptedServer server([](std::size_t number, const std::string&) {
    if (number == 1) return ScriptedServer::Reply{"", true};  // takes it and closes without a word
    return ScriptedServer::Reply{http_answer(200, "application/json", "{}"), false};
  });
  Client client(server.port());
  BOOST_TEST((client.post().ending == HttpEnding::kComplete));
  BOOST_TEST((client.post().ending == HttpEnding::kComplete));
  BOOST_TEST(server.requests() == 3u);
}

BOOST_AUTO_TEST_CASE(refusals_bring_their_body_and_retry_after) {
  const HttpOutcome outcome = outcome_of(http_answer(429, "application/json", "{\"error\":{}}", "Retry-After: 7\r\n"));
  BOOST_TEST((outcome.ending == HttpEnding::kComplete));
  BOOST_TEST(outcome.answer.status == 429);
  BOOST_TEST(outcome.answer.body == "{\"error\":{}}");
  BOOST_TEST(outcome.answer.retry_after == "7");
}

BOOST_AUTO_TEST_CASE(a_stream_that_is_cut_off_is_no_whole_answer) {
  const std::string event = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
  for (const std::string& bytes :
       {stream_head(), stream_head() + chunk(event), stream_head() + chunk(event) + "1f\r\ndata: {\"cho",
        std::string("HTTP/1.1 200 OK\r\nContent-Le"), std::string()}) {
    BOOST_TEST_CONTEXT(bytes) {
      const HttpOutcome outcome = outcome_of(bytes);
      BOOST_TEST((outcome.ending == HttpEnding::kCut));
      BOOST_TEST(outcome.error.message.find("127.0.0.1:") != std::string::npos);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_http_is_called_so) {
  for (const std::string bytes : {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\n"}) {
    const HttpOutcome outcome = outcome_of(bytes);
    BOOST_TEST((outcome.ending == HttpEnding::kMalformed));
    BOOST_TEST(outcome.error.message.find("does not answer in HTTP") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(a_server_that_falls_silent_is_given_up) {
  for (const std::string& bytes : {std::string(), stream_head(), stream_head() + "1f\r\ndata"}) {
    const HttpOutcome outcome = outcome_of(bytes, false, {.wait = 50ms});
    BOOST_TEST((outcome.ending == HttpEnding::kTimedOut));
    BOOST_TEST(outcome.error.message.find("sent nothing for 50 ms") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(a_request_may_not_take_longer_in_all) {
  const HttpOutcome outcome = outcome_of(stream_head(), false, {.wait = 60s, .whole = 50ms});
  BOOST_TEST((outcome.ending == HttpEnding::kTimedOut));
  BOOST_TEST(outcome.error.message.find("not answered whole after 50 ms") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(nobody_listening_is_said_with_the_place) {
  std::uint16_t port = 0;
  {
    ScriptedServer server(always(""));
    port = server.port();
  }
  const HttpOutcome outcome = Client(port).post();
  BOOST_TEST((outcome.ending == HttpEnding::kNoConnection));
  BOOST_TEST(outcome.error.message.find("127.0.0.1:" + std::to_string(port)) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(an_event_handler_may_have_enough) {
  ScriptedServer server(always(completion_stream(3, 5), false));
  Client client(server.port());
  BOOST_TEST((client.post([](std::string_view) { return false; }).ending == HttpEnding::kEnough));
  BOOST_TEST(client.events.size() == 1u);
  BOOST_TEST((client.post().ending == HttpEnding::kComplete));
  BOOST_TEST(server.connections() == 2u);
}

BOOST_AUTO_TEST_CASE(cancelling_ends_what_is_under_way) {
  ScriptedServer server(always(stream_head() + chunk("data: {}\n\n"), false));
  Client client(server.port());
  const HttpOutcome outcome = client.post([&](std::string_view) {
    client.connections().cancel_all();
    return true;
  });
  BOOST_TEST((outcome.ending == HttpEnding::kCancelled));
}

}  // namespace troupe::cluster
