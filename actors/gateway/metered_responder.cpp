#include "actors/gateway/metered_responder.h"

namespace troupe {

MeteredResponder::MeteredResponder(std::shared_ptr<HttpResponder> inner, std::shared_ptr<GatewayMetrics> metrics,
                                   std::string endpoint, std::string request_id)
    : inner_(std::move(inner)), metrics_(std::move(metrics)), endpoint_(std::move(endpoint)) {
  add_header("x-request-id", std::move(request_id));
}

void MeteredResponder::complete(HttpResponse& response) {
  response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
  metrics_->count_response(endpoint_, response.status);
}

void MeteredResponder::send(HttpResponse response) {
  complete(response);
  inner_->send(std::move(response));
}

void MeteredResponder::begin_stream(HttpResponse response) {
  complete(response);
  inner_->begin_stream(std::move(response));
}

void MeteredResponder::abort() {
  metrics_->count_broken_stream();
  inner_->abort();
}

}  // namespace troupe
