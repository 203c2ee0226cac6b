#include "cluster/http/http_url.h"

#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <charconv>

#include "runtime/base/log.h"

namespace troupe::cluster {

Result<HttpUrl> parse_http_url(std::string_view text) {
  const std::string shown = one_line(text);
  const auto parsed = boost::urls::parse_uri({text.data(), text.size()});
  if (!parsed) return invalid_argument("'" + shown + "' is not a URL; one looks like http://127.0.0.1:8080");
  const boost::urls::url_view url = *parsed;
  if (url.scheme_id() == boost::urls::scheme::https) {
    return unsupported("'" + shown + "': https is not spoken here; measure the server itself, behind its TLS proxy");
  }
  if (url.scheme_id() != boost::urls::scheme::http || url.encoded_host().empty()) {
    return invalid_argument("'" + shown + "' is not an HTTP URL; one looks like http://127.0.0.1:8080");
  }
  if (url.has_userinfo() || url.has_query() || url.has_fragment()) {
    return invalid_argument("'" + shown + "': a user, a query or a fragment has no place here; http://HOST:PORT/PATH");
  }
  HttpUrl found;
  found.host = url.host_type() == boost::urls::host_type::ipv6 ? std::string(url.encoded_host().substr(1))
                                                               : std::string(url.encoded_host());
  if (url.host_type() == boost::urls::host_type::ipv6) found.host.pop_back();
  if (url.has_port() && !url.port().empty()) {
    // Not port_number(): it wraps around.
    const std::string_view text_of_port(url.port().data(), url.port().size());
    const auto parsed = std::from_chars(text_of_port.data(), text_of_port.data() + text_of_port.size(), found.port);
    if (parsed.ec != std::errc() || found.port == 0) {
      return invalid_argument("'" + shown + "' has a port outside 1..65535");
    }
  }
  found.root = std::string(url.encoded_path());
  while (found.root.ends_with('/')) found.root.pop_back();
  if (found.root.ends_with("/v1")) found.root.resize(found.root.size() - 3);
  return found;
}

}  // namespace troupe::cluster
