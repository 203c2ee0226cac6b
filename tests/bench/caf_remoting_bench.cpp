// One side of fabric_bench over CAF's own remoting: the same actors, the same measurement.
//   caf_remoting_bench serve ADDRESS                   prints its ports; ends with its standard input
//   caf_remoting_bench drive ADDRESS PORT,PORT JOB...  JOB: BYTES:ROUND_TRIPS:STREAMED
// A program of its own, because linking caf_io gives an actor system another identity.
#include <unistd.h>

#include <caf/io/all.hpp>
#include <memory>
#include <string_view>

#include "tests/bench/ping_pong.h"

namespace {

using namespace troupe::bench;

// The payload is shared between messages, so that only the remoting copies it.
struct Blob {
  std::uint64_t number = 0;
  std::shared_ptr<const std::string> payload = std::make_shared<const std::string>();
};

template <class Inspector>
typename Inspector::result_type inspect(Inspector& inspector, Blob& blob) {
  if constexpr (Inspector::reads_state) {
    return inspector(blob.number, const_cast<std::string&>(*blob.payload));
  } else {
    auto payload = std::make_shared<std::string>();
    auto result = inspector(blob.number, *payload);
    blob.payload = std::move(payload);
    return result;
  }
}

struct Serialized {
  using Message = Blob;

  static Message make(std::uint64_t number, std::size_t bytes) { return {number, payload(bytes)}; }
  static std::uint64_t number_of(const Message& message) { return message.number; }

 private:
  static std::shared_ptr<const std::string> payload(std::size_t bytes) {
    thread_local auto last = std::make_shared<const std::string>();
    thread_local auto empty = std::make_shared<const std::string>();
    if (bytes == 0) return empty;
    if (last->size() != bytes) last = std::make_shared<const std::string>(bytes, '*');
    return last;
  }
};

template <class T>
T checked(caf::expected<T> value, caf::actor_system& system) {
  if (value) return std::move(*value);
  std::fprintf(stderr, "%s\n", system.render(value.error()).c_str());
  std::exit(1);
}

int serve(caf::actor_system& system, const char* address) {
  auto partner = system.spawn(echo<Serialized>);
  auto swallower = system.spawn(sink<Serialized>);
  auto& middleman = system.middleman();
  auto echo_port = checked(middleman.publish(partner, 0, address), system);
  auto sink_port = checked(middleman.publish(swallower, 0, address), system);
  std::printf("%u,%u\n", echo_port, sink_port);
  std::fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  for (auto& actor : {partner, swallower}) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  return 0;
}

int drive(caf::actor_system& system, int count, char** arguments) {
  unsigned echo_port = 0, sink_port = 0;
  if (std::sscanf(arguments[1], "%u,%u", &echo_port, &sink_port) != 2) return 2;
  auto& middleman = system.middleman();
  auto partner = checked(middleman.remote_actor(arguments[0], static_cast<std::uint16_t>(echo_port)), system);
  auto swallower = checked(middleman.remote_actor(arguments[0], static_cast<std::uint16_t>(sink_port)), system);
  for (int i = 2; i < count; ++i) {
    run_job<Serialized>(system, partner, swallower, parse_job(arguments[i]), [](const caf::actor&) {});
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  caf::actor_system_config config;
  config.load<caf::io::middleman>();
  config.add_message_type<Blob>("blob");
  config.set("scheduler.policy", caf::atom("sharing"));  // as the fabric's side has it
  caf::actor_system system(config);
  std::string_view role = argc > 1 ? argv[1] : "";
  if (role == "serve" && argc == 3) return serve(system, argv[2]);
  if (role == "drive" && argc > 4) return drive(system, argc - 2, argv + 2);
  std::fprintf(stderr, "caf_remoting_bench is started by fabric_bench\n");
  return 2;
}
