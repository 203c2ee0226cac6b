// Where does the time of one token go? An experiment in one file: an actor of our own joins a running cluster, sends
// its actors the messages of schema/, and reads what they have measured. Copy it, and change what is asked.
//   troupe up --detach examples/topologies/one.yaml; where_a_token_goes examples/topologies/one.yaml [TOKENS]
#include <fmt/format.h>
#include <caf/all.hpp>

#include "actors/names.h"
#include "cluster/cluster_client.h"
#include "cluster/command/cluster_name.h"
#include "runtime/base/log.h"
#include "schema/generate.capnp.h"

using namespace troupe;
using Numbers = std::map<std::pair<std::string, std::string>, double>;  // by actor and metric; of a histogram the sum
constexpr std::chrono::seconds kPatience{60};

// What the actors have measured since they started.
Result<Numbers> ask_for_stats(caf::blocking_actor* self, const std::map<std::string, caf::actor>& cast) {
  Result<Numbers> numbers = Numbers{};
  for (const auto& [name, actor] : cast) {
    const auto note = [&, &name = name](const fabric::Message<schema::Stats>& stats) {
      const auto reader = stats.read();
      for (const auto family : reader->getFamilies())
        for (const auto metric : family.getMetrics()) (*numbers)[{name, family.getName()}] += metric.getValue();
    };
    self->request(actor, kPatience, fabric::make_message<schema::StatsRequest>([](auto) {}))
        .receive(note, [&](const caf::error& error) { numbers = unavailable(self->system().render(error)); });
    if (!numbers.ok()) break;
  }
  return numbers;
}

// The actor of this experiment. It blocks, in a thread of its own, so that the script reads from top to bottom.
Result<void> experiment(caf::blocking_actor* self, cluster::ClusterClient& cluster, std::uint32_t max_tokens) {
  const std::string scheduler = scheduler_name(0);
  std::map<std::string, caf::actor> cast;  // whom to ask: replica 0's scheduler and every shard
  TROUPE_ASSIGN_OR_RETURN(const auto status, cluster.status());
  const auto reader = status.read();
  for (const auto entry : reader->getActors()) {
    const std::string name = entry.getActor();
    if (name != scheduler && !name.starts_with("shard/0/")) continue;
    TROUPE_ASSIGN_OR_RETURN(cast[name], cluster.find(name));
  }
  TROUPE_ASSIGN_OR_RETURN(auto before, ask_for_stats(self, cast));
  // Token ids as the prompt need no tokenizer. Without stop tokens the answer is as long as we want it.
  const auto start = self->clock().now();
  self->send(cast[scheduler], fabric::make_message<schema::Generate>([&](schema::Generate::Builder out) {
               out.setTokens({1, 2, 3});
               out.setMaxTokens(max_tokens);
               out.initSampling().setTemperature(0);
             }));
  double tokens = 0, queue_us = 0;
  Result<void> result;
  self->receive_while([&] { return tokens < max_tokens && result.ok(); })(
      [&](const fabric::Message<schema::Deltas>& deltas) {
        const auto message = deltas.read();
        const auto delta = message->getItems()[0];  // we have one request only
        tokens += delta.getTokens().size();
        queue_us += static_cast<double>(delta.getQueueNs()) / 1e3;
        if (delta.getFinish() == schema::FinishReason::LENGTH) max_tokens = 0;  // a model may end sooner than we wish
        if (delta.hasError()) result = unavailable(delta.getError().getMessage());
      },
      caf::after(kPatience) >> [&] { result = unavailable("no token came"); });
  TROUPE_RETURN_IF_ERROR(result);
  const std::chrono::duration<double, std::micro> time = self->clock().now() - start;
  const double token_us = (time.count() - queue_us) / tokens;
  TROUPE_ASSIGN_OR_RETURN(auto after, ask_for_stats(self, cast));
  const auto us_per_token = [&](const std::string& name, const std::string& metric) {
    return (after[{name, metric}] - before[{name, metric}]) * 1e6 / tokens;
  };
  double stages_us = 0;  // the first rank of a stage waits for the other ranks and sends on: its time is the stage's
  fmt::print("{} tokens after {:.0f} us in the queue; us a token:\n", tokens, queue_us);
  fmt::print("{:<28} {:>8} {:>12}\n", "", "compute", "collectives");
  cast.erase(scheduler);
  for (const auto& [name, actor] : cast) {
    const double compute_us = us_per_token(name, "troupe_shard_compute_seconds_total");
    const double collective_us = us_per_token(name, "troupe_shard_collective_seconds_total");
    if (name.ends_with("/0")) stages_us += compute_us + collective_us;
    fmt::print("{:<28} {:>8.1f} {:>12.1f}\n", name, compute_us, collective_us);
  }
  const double step_us = us_per_token(scheduler, "troupe_scheduler_step_seconds");
  fmt::print("{:<28} {:>8.1f}\n{:<28} {:>8.1f}\n", "stages", stages_us, "messages between them", step_us - stages_us);
  fmt::print("{:<28} {:>8.1f}\n{:<28} {:>8.1f}\n", "scheduler and answers to us", token_us - step_us, "all", token_us);
  return {};
}

int main(int argc, char** argv) {
  const auto name = argc > 1 ? cluster::cluster_name(argv[1]) : std::nullopt;
  const int tokens = argc > 2 ? std::atoi(argv[2]) : 64;
  if (!name || tokens < 1) return fmt::print(stderr, "usage: {} TOPOLOGY [TOKENS]\n", argv[0]), 2;
  if (!start_logging("experiment", "warn", "text").ok()) return 2;
  caf::actor_system_config config;
  fabric::configure(config);  // tells CAF of our message types
  caf::actor_system system(config);
  auto cluster = cluster::ClusterClient::join(system, *name);
  Result<void> result = cluster.ok() ? Result<void>() : cluster.error();
  if (cluster.ok()) system.spawn([&](caf::blocking_actor* self) { result = experiment(self, **cluster, tokens); });
  system.await_all_actors_done();
  if (!result.ok()) fmt::print(stderr, "{}: {}\n", argv[0], result.error().message);
  return result.ok() ? 0 : 1;
}
