#include "actors/outcome.h"

#include "runtime/engine/error_info.h"

namespace troupe {

fabric::Message<schema::Outcome> outcome_of(const Result<void>& result) {
  return fabric::make_message<schema::Outcome>([&](schema::Outcome::Builder out) {
    if (result.ok()) {
      out.setOk();
    } else {
      engine::write_error(result.error(), out.initError());
    }
  });
}

fabric::Message<schema::Spawned> spawned_of(const std::string& actor, const Result<std::string>& detail) {
  return fabric::make_message<schema::Spawned>([&](schema::Spawned::Builder out) {
    out.setActor(actor);
    if (detail.ok()) {
      out.initReady().setDetail(*detail);
    } else {
      engine::write_error(detail.error(), out.initError());
    }
  });
}

Result<void> read_outcome(const fabric::Message<schema::Outcome>& outcome) {
  const auto in = outcome.read();
  if (in->isError()) return engine::read_error(in->getError());
  return {};
}

}  // namespace troupe
