#pragma once

#include <memory>
#include <string>
#include <vector>

#include "actors/gateway/gateway_metrics.h"
#include "actors/gateway/http_server.h"

namespace troupe {

// A responder that counts the answer and puts the request's own headers (x-request-id, x-troupe-warning) on it.
class MeteredResponder final : public HttpResponder {
 public:
  MeteredResponder(std::shared_ptr<HttpResponder> inner, std::shared_ptr<GatewayMetrics> metrics, std::string endpoint,
                   std::string request_id);

  // REQUIRES: nothing has been sent, and no other thread sends yet.
  void add_header(std::string name, std::string value) { headers_.push_back({std::move(name), std::move(value)}); }

  void send(HttpResponse response) override;
  void begin_stream(HttpResponse response) override;
  bool write(std::string_view piece) override { return inner_->write(piece); }
  void finish() override { inner_->finish(); }
  void abort() override;
  void on_gone(std::function<void()> gone) override { inner_->on_gone(std::move(gone)); }

 private:
  void complete(HttpResponse& response);

  const std::shared_ptr<HttpResponder> inner_;
  const std::shared_ptr<GatewayMetrics> metrics_;
  const std::string endpoint_;
  std::vector<HttpHeader> headers_;
};

}  // namespace troupe
