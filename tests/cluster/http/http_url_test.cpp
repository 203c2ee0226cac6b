#include "cluster/http/http_url.h"

#include <boost/test/unit_test.hpp>

namespace troupe::cluster {

BOOST_AUTO_TEST_CASE(a_url_names_host_port_and_what_stands_before_v1) {
  const struct {
    const char* text;
    const char* host;
    std::uint16_t port;
    const char* root;
  } cases[] = {{"http://127.0.0.1:8080", "127.0.0.1", 8080, ""},
               {"http://somewhere", "somewhere", 80, ""},
               {"http://somewhere:81/", "somewhere", 81, ""},
               {"http://somewhere:81/v1", "somewhere", 81, ""},
               {"http://somewhere:81/v1/", "somewhere", 81, ""},
               {"http://somewhere/models/v1", "somewhere", 80, "/models"},
               {"http://[::1]:8080", "::1", 8080, ""}};
  for (const auto& expected : cases) {
    BOOST_TEST_CONTEXT(expected.text) {
      const auto url = parse_http_url(expected.text);
      BOOST_REQUIRE_MESSAGE(url.ok(), (url.ok() ? "" : url.error().message));
      BOOST_TEST(url->host == expected.host);
      BOOST_TEST(url->port == expected.port);
      BOOST_TEST(url->root == expected.root);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_url_of_a_server_is_refused_with_an_example) {
  for (const char* text : {"", "somewhere:80", "ftp://somewhere", "http://", "http://a b", "http://x:99999",
                           "http://x:0", "http://user@x", "http://x/?a=b", "http://x/#a"}) {
    BOOST_TEST_CONTEXT(text) {
      const auto url = parse_http_url(text);
      BOOST_REQUIRE(!url.ok());
      BOOST_TEST(!url.error().message.empty());
    }
  }
  BOOST_TEST(parse_http_url("https://somewhere").error().message.find("https is not spoken") != std::string::npos);
}

}  // namespace troupe::cluster
