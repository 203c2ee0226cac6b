#include "runtime/engine/delta.h"

#include "runtime/engine/error_info.h"

namespace troupe::engine {

namespace {

void write_score(const TokenScore& score, schema::TokenLogprob::Builder to) {
  to.setToken(score.token);
  to.setLogprob(score.logprob);
}

TokenScore read_score(schema::TokenLogprob::Reader from) {
  return {.token = from.getToken(), .logprob = from.getLogprob()};
}

}  // namespace

void write_rated(const RatedToken& rated, schema::TokenLogprobs::Builder to) {
  write_score(rated.chosen, to.initChosen());
  auto top = to.initTop(static_cast<unsigned>(rated.top.size()));
  for (unsigned i = 0; i < top.size(); ++i) write_score(rated.top[i], top[i]);
}

RatedToken read_rated(schema::TokenLogprobs::Reader from) {
  RatedToken rated{.chosen = read_score(from.getChosen())};
  for (const auto score : from.getTop()) rated.top.push_back(read_score(score));
  return rated;
}

void write_delta(const Delta& delta, schema::Delta::Builder to) {
  to.setRequest(delta.request);
  auto tokens = to.initTokens(static_cast<unsigned>(delta.tokens.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, delta.tokens[i]);
  auto logprobs = to.initLogprobs(static_cast<unsigned>(delta.logprobs.size()));
  for (unsigned i = 0; i < logprobs.size(); ++i) write_rated(delta.logprobs[i], logprobs[i]);
  auto prompt_logprobs = to.initPromptLogprobs(static_cast<unsigned>(delta.prompt_logprobs.size()));
  for (unsigned i = 0; i < prompt_logprobs.size(); ++i) write_rated(delta.prompt_logprobs[i], prompt_logprobs[i]);
  to.setFinish(delta.finish);
  to.setGuesses(delta.guesses);
  to.setAcceptedGuesses(delta.accepted_guesses);
  if (delta.error) write_error(*delta.error, to.initError());
  to.setQueueNs(delta.queue_ns);
  to.setCachedTokens(delta.cached_tokens);
}

}  // namespace troupe::engine
