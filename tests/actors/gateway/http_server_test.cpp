#include "actors/gateway/http_server.h"

#include <boost/test/unit_test.hpp>
#include <future>
#include <thread>
#include <vector>

#include "tests/actors/gateway/gateway_fixture.h"

using namespace troupe;
using troupe::testing::Client;

BOOST_AUTO_TEST_SUITE(http_server)

namespace {

struct Server {
  explicit Server(HttpServer::Handler handler, Limits limits = {}) {
    HttpServerOptions options;
    options.limits = limits;
    auto bound = HttpServer::bind(options);
    BOOST_REQUIRE(bound.ok());
    server = std::move(bound).value();
    server->start(std::move(handler), [](unsigned, std::string_view message) {
      return HttpResponse{.content_type = "text/plain", .body = std::string(message)};
    });
  }
  std::unique_ptr<HttpServer> server;
};

void echo(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  responder->send({.content_type = "text/plain", .body = request.method + " " + request.path + " " + request.body});
}

}  // namespace

BOOST_AUTO_TEST_CASE(requests_on_one_connection_are_answered_in_order) {
  Server fixture(echo);
  Client client(fixture.server->port());
  client.get("/a");
  BOOST_TEST(client.read().body == "GET /a ");
  client.post("/b%20c?q=1", "body");
  const auto second = client.read();
  BOOST_TEST(second.body == "POST /b c body");
  BOOST_TEST(second.header("connection") == "keep-alive");
}

BOOST_AUTO_TEST_CASE(pipelined_requests_are_answered_in_order_even_if_the_first_takes_long) {
  std::promise<std::shared_ptr<HttpResponder>> first;
  Server fixture([&](HttpRequest request, std::shared_ptr<HttpResponder> responder) {
    if (request.path == "/slow") return first.set_value(responder);
    echo(std::move(request), std::move(responder));
  });
  Client client(fixture.server->port());
  client.send(
      "GET /slow HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /c "
      "HTTP/1.1\r\nHost: x\r\n\r\n");
  first.get_future().get()->send({.body = "slow"});
  BOOST_TEST(client.read().body == "slow");
  BOOST_TEST(client.read().body == "POST /b hi");
  BOOST_TEST(client.read().body == "GET /c ");
}

BOOST_AUTO_TEST_CASE(a_malformed_request_is_refused_and_the_connection_closed) {
  Server fixture(echo);
  const std::pair<const char*, unsigned> cases[] = {
      {"GARBAGE\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400},
      {"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 1\r\n\r\n", 417},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413},
  };
  for (const auto& [bytes, status] : cases) {
    BOOST_TEST_CONTEXT(bytes) {
      Client client(fixture.server->port());
      client.send(bytes);
      const auto response = client.read();
      BOOST_TEST(response.status == status);
      BOOST_TEST(response.header("connection") == "close");
      BOOST_TEST(client.read_all().empty());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_header_or_body_beyond_its_limit_is_refused_while_it_still_arrives) {
  Limits limits;
  limits.http_header_bytes = 1024;
  limits.http_body_bytes = 1000;
  Server fixture(echo, limits);
  Client header(fixture.server->port());
  header.get("/", "X-Long: " + std::string(5000, 'x') + "\r\n");
  BOOST_TEST(header.read().status == 431u);
  Client body(fixture.server->port());
  body.post("/", std::string(20 << 20, 'x'));
  BOOST_TEST(body.read().status == 413u);
  Client chunked(fixture.server->port());
  chunked.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + std::string(2048, 'x') +
               "\r\n");
  BOOST_TEST(chunked.read().status == 413u);
}

BOOST_AUTO_TEST_CASE(a_request_that_stops_arriving_gets_408) {
  Limits limits;
  limits.http_idle_timeout_ms = 50;
  Server fixture(echo, limits);
  Client client(fixture.server->port());
  client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  BOOST_TEST(client.read().status == 408u);
}

BOOST_AUTO_TEST_CASE(a_client_that_waits_for_100_continue_gets_it) {
  Server fixture(echo);
  Client client(fixture.server->port());
  client.send("POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  BOOST_TEST(client.read().status == 100u);
  client.send("ok");
  BOOST_TEST(client.read().body == "POST /e ok");
}

BOOST_AUTO_TEST_CASE(head_gets_the_header_of_get_without_a_body) {
  Server fixture([](HttpRequest, std::shared_ptr<HttpResponder> responder) { responder->send({.body = "12345"}); });
  Client client(fixture.server->port());
  client.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto head = client.read(true);
  BOOST_TEST(head.header("content-length") == "5");
  BOOST_TEST(client.read().body == "12345");
}

BOOST_AUTO_TEST_CASE(an_aborted_stream_has_no_last_chunk) {
  Server fixture([](HttpRequest, std::shared_ptr<HttpResponder> responder) {
    responder->begin_stream({.body = "one "});
    responder->write("two");
    responder->abort();
  });
  Client client(fixture.server->port());
  client.get("/");
  const auto response = client.read();
  BOOST_TEST(response.body == "one two");
  BOOST_TEST(!response.complete);
}

BOOST_AUTO_TEST_CASE(a_finished_stream_leaves_the_connection_usable) {
  Server fixture([](HttpRequest, std::shared_ptr<HttpResponder> responder) {
    responder->begin_stream({.body = "one "});
    responder->write("two");
    responder->finish();
  });
  Client client(fixture.server->port());
  for (int i = 0; i < 2; ++i) {
    client.get("/");
    const auto response = client.read();
    BOOST_TEST(response.body == "one two");
    BOOST_TEST(response.complete);
  }
}

BOOST_AUTO_TEST_CASE(an_http_1_0_stream_ends_with_its_connection) {
  Server fixture([](HttpRequest, std::shared_ptr<HttpResponder> responder) {
    responder->begin_stream({.body = "one"});
    responder->finish();
  });
  Client client(fixture.server->port());
  client.send("GET / HTTP/1.0\r\n\r\n");
  const std::string all = client.read_all();
  BOOST_TEST(all.ends_with("\r\n\r\none"));
  BOOST_TEST(all.find("chunked") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_handler_learns_that_its_client_has_gone) {
  std::promise<void> gone;
  std::promise<std::shared_ptr<HttpResponder>> handed;
  Server fixture([&](HttpRequest, std::shared_ptr<HttpResponder> responder) {
    responder->on_gone([&gone] { gone.set_value(); });
    handed.set_value(responder);
  });
  Client client(fixture.server->port());
  client.get("/");
  const auto responder = handed.get_future().get();
  client.close();
  BOOST_TEST((gone.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready));
  responder->begin_stream({});
  BOOST_TEST(!responder->write("too late"));
}

BOOST_AUTO_TEST_CASE(a_client_that_does_not_read_is_cut_off) {
  Limits limits;
  limits.stream_buffer_bytes = 64 << 10;
  std::promise<std::shared_ptr<HttpResponder>> handed;
  std::promise<void> gone;
  Server fixture(
      [&](HttpRequest, std::shared_ptr<HttpResponder> responder) {
        responder->on_gone([&gone] { gone.set_value(); });
        responder->begin_stream({});
        handed.set_value(responder);
      },
      limits);
  Client client(fixture.server->port());
  client.get("/");
  const auto responder = handed.get_future().get();
  const std::string piece(32 << 10, 'x');
  bool open = true;
  // The kernel's buffers take some megabytes before ours fills.
  for (int i = 0; i < 100'000 && open; ++i) open = responder->write(piece);
  BOOST_TEST(!open);
  BOOST_TEST((gone.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready));
}

BOOST_AUTO_TEST_CASE(a_client_that_reads_nothing_for_the_write_timeout_is_cut_off) {
  Limits limits;
  limits.http_write_timeout_ms = 50;
  limits.stream_buffer_bytes = 128 << 20;
  std::promise<void> gone;
  std::promise<std::shared_ptr<HttpResponder>> handed;
  Server fixture(
      [&](HttpRequest, std::shared_ptr<HttpResponder> responder) {
        responder->on_gone([&gone] { gone.set_value(); });
        // More than the kernel's buffers take.
        responder->begin_stream({.body = std::string(64 << 20, 'x')});
        handed.set_value(responder);
      },
      limits);
  Client client(fixture.server->port());
  client.get("/");
  const auto responder = handed.get_future().get();
  BOOST_TEST((gone.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready));
}

BOOST_AUTO_TEST_CASE(connections_that_end_as_soon_as_they_begin_do_no_harm) {
  Server fixture(echo);
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([port = fixture.server->port()] {
      for (int connection = 0; connection < 1'000; ++connection) Client{port};
    });
  }
  for (std::thread& client : clients) client.join();
  Client client(fixture.server->port());
  client.get("/after");
  BOOST_TEST(client.read().body == "GET /after ");
}

BOOST_AUTO_TEST_CASE(connections_beyond_the_limit_get_503) {
  Limits limits;
  limits.http_connections = 1;
  Server fixture(echo, limits);
  Client first(fixture.server->port());
  first.get("/");
  BOOST_TEST(first.read().status == 200u);
  Client second(fixture.server->port());
  BOOST_TEST(second.read().status == 503u);
}

BOOST_AUTO_TEST_CASE(a_draining_server_ends_idle_connections_and_finishes_answers) {
  std::promise<std::shared_ptr<HttpResponder>> handed;
  Server fixture([&](HttpRequest request, std::shared_ptr<HttpResponder> responder) {
    if (request.path == "/idle") return responder->send({});
    responder->begin_stream({.body = "one "});
    handed.set_value(responder);
  });
  Client idle(fixture.server->port());
  idle.get("/idle");
  BOOST_TEST(idle.read().status == 200u);
  Client busy(fixture.server->port());
  busy.get("/busy");
  const auto responder = handed.get_future().get();
  fixture.server->drain();
  BOOST_TEST(idle.read_all().empty());
  responder->write("two");
  responder->finish();
  const auto response = busy.read();
  BOOST_TEST(response.body == "one two");
  BOOST_TEST(response.complete);
  BOOST_TEST(busy.read_all().empty());
}

BOOST_AUTO_TEST_CASE(a_taken_address_is_named) {
  Server fixture(echo);
  HttpServerOptions options;
  options.port = fixture.server->port();
  const auto second = HttpServer::bind(options);
  BOOST_REQUIRE(!second.ok());
  BOOST_TEST(second.error().message.find(std::to_string(options.port)) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_dropped_responder_cuts_the_connection) {
  Server fixture([](HttpRequest, std::shared_ptr<HttpResponder>) {});
  Client client(fixture.server->port());
  client.get("/");
  BOOST_TEST(client.read_all().empty());
}

BOOST_AUTO_TEST_SUITE_END()
