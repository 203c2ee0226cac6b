#include "actors/expert_requests.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <caf/all.hpp>

#include "actors/f32_matrix.h"
#include "runtime/engine/error_info.h"

namespace troupe {

ExpertRequests::ExpertRequests(caf::actor_system& system, ExpertRequestsOptions options)
    : options_(std::move(options)), self_(system) {}

Result<void> ExpertRequests::dispatch(std::uint32_t layer, kernels::ConstMatrixF32 normed,
                                      std::span<const model::DispatchedRows> parts) {
  layer_ = layer;
  cols_ = normed.cols;
  deadline_ = Clock::now() + options_.timeout;
  asked_.clear();
  for (const model::DispatchedRows& part : parts) {
    // Without a timer of the actor system, which would live on for every answer that is in time: receive() has one.
    const auto request =
        self_->request(options_.experts.at(part.expert_shard), caf::infinite, message_for(part, normed));
    asked_.push_back({.expert = part.expert_shard, .rows = part.rows.size(), .request = request.id(), .answer = {}});
  }
  return {};
}

fabric::Message<schema::Dispatch> ExpertRequests::message_for(const model::DispatchedRows& part,
                                                              kernels::ConstMatrixF32 normed) const {
  fabric::MessageBuilder<schema::Dispatch> message;
  auto out = message.root();
  auto fence = out.initFence();
  fence.setReplica(options_.replica);
  fence.setEpoch(options_.epoch);
  fence.setStep(step_);
  out.setLayer(layer_);
  out.setPairRows({part.pair_rows.data(), part.pair_rows.size()});
  out.setPairExperts({part.pair_experts.data(), part.pair_experts.size()});
  out.setPairWeights({part.pair_weights.data(), part.pair_weights.size()});
  const kernels::MatrixF32 rows = attach_matrix(part.rows.size(), normed.cols, message, out.initRows());
  for (std::size_t i = 0; i < rows.rows; ++i) std::copy_n(normed.row(part.rows[i]), rows.cols, rows.row(i));
  return std::move(message).finish();
}

Result<kernels::ConstMatrixF32> ExpertRequests::combine(std::size_t part) {
  Asked& asked = asked_.at(part);
  const std::string who = "expert " + std::to_string(asked.expert) + " of the stage";
  auto received = receive(asked);
  if (!received.ok()) return std::move(received).error().within(who);
  asked.answer = *std::move(received);
  const auto answer = asked.answer.read();
  if (answer->getFailed()) return engine::read_error(answer->getError()).within(who);
  if (answer->getLayer() != layer_) return corrupt_data(who + " answers for another layer");
  return read_matrix(answer->getRows(), asked.answer.attachments(), asked.rows, asked.rows, cols_,
                     "what " + who + " answers");
}

Result<fabric::Message<schema::Combine>> ExpertRequests::receive(const Asked& asked) {
  Result<fabric::Message<schema::Combine>> result = internal_error("no answer");
  caf::blocking_actor::accept_one_cond once;
  const auto left = std::max(deadline_ - Clock::now(), Clock::duration::zero());
  self_->varargs_receive(
      once, asked.request, [&](const fabric::Message<schema::Combine>& answer) { result = answer; },
      [&](const caf::error& error) { result = unavailable("no answer: " + self_->system().render(error)); },
      caf::after(left) >>
          [&] {
            result = deadline_exceeded("no answer within " + std::to_string(options_.timeout.count()) +
                                       " ms (limit step_timeout_ms)");
          });
  return result;
}

}  // namespace troupe
