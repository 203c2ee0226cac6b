// One side of fabric_bench over Troupe's fabric.
//   fabric_bench_node serve LISTEN TRANSPORTS SPIN_US INLINE      prints its endpoint; ends with its standard input
//   fabric_bench_node drive ENDPOINT LISTEN TRANSPORTS SPIN_US INLINE JOB...
//   fabric_bench_node local JOB...                                both actors in one system, no fabric
// INLINE 1: the actors run on the fabric's thread. JOB: BYTES:ROUND_TRIPS:STREAMED
#include <unistd.h>

#include <map>
#include <mutex>
#include <string_view>

#include "runtime/base/log.h"
#include "runtime/fabric/fabric.h"
#include "schema/generate.capnp.h"
#include "tests/bench/ping_pong.h"

namespace {

using namespace troupe;
using namespace troupe::bench;

// The payload is an attachment of any size.
struct Attached {
  using Message = fabric::Message<schema::Cancel>;

  static Message make(std::uint64_t number, std::size_t bytes) {
    fabric::MessageBuilder<schema::Cancel> builder;
    builder.root().setRequest(number);
    if (bytes > 0) builder.attach(payload(bytes));
    return std::move(builder).finish();
  }
  static std::uint64_t number_of(const Message& message) { return message.read()->getRequest(); }

 private:
  static fabric::Attachment payload(std::size_t bytes) {
    thread_local fabric::Attachment last;
    if (last.size() != bytes) {
      last = fabric::Attachment::allocate(bytes);
      std::fill_n(last.mutable_data(), bytes, std::byte{42});
    }
    return last;
  }
};

caf::actor as_actor(const caf::strong_actor_ptr& pointer) { return caf::actor_cast<caf::actor>(pointer); }
caf::strong_actor_ptr as_pointer(const caf::actor& actor) { return caf::actor_cast<caf::strong_actor_ptr>(actor); }

std::unique_ptr<fabric::Fabric> start(caf::actor_system& system, const char* name, const char* listen,
                                      const char* transports, const char* spin_us) {
  fabric::FabricOptions options;
  options.node_name = name;
  options.listen = listen;
  options.secret = "fabric_bench";
  options.transports = transports;
  options.limits.spin_us = std::strtoull(spin_us, nullptr, 10);
  options.types = fabric::schema_message_types();
  auto started = fabric::Fabric::start(system, std::move(options));
  if (!started) {
    std::fprintf(stderr, "%s\n", started.error().message.c_str());
    std::exit(1);
  }
  return std::move(started).value();
}

int serve(caf::actor_system& system, char** arguments) {
  auto node = start(system, "server", arguments[0], arguments[1], arguments[2]);
  bool is_inline = std::string_view(arguments[3]) == "1";
  std::vector<caf::actor> actors{system.spawn(echo<Attached>), system.spawn(sink<Attached>)};
  const char* names[] = {"echo", "sink"};
  for (std::size_t i = 0; i < actors.size(); ++i) {
    if (is_inline) node->run_inline(as_pointer(actors[i]));
    node->publish(names[i], as_pointer(actors[i]));
  }
  std::printf("%s\n", node->endpoint().c_str());
  std::fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  for (auto& actor : actors) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  return 0;
}

int drive(caf::actor_system& system, int count, char** arguments) {
  auto node = start(system, "driver", arguments[1], arguments[2], arguments[3]);
  bool is_inline = std::string_view(arguments[4]) == "1";
  auto server = node->connect(arguments[0]);
  if (!server) {
    std::fprintf(stderr, "%s\n", server.error().message.c_str());
    return 1;
  }
  auto prepare = [&](const caf::actor& driver) {
    if (is_inline) node->run_inline(as_pointer(driver));
  };
  auto echo = as_actor(node->resolve(*server, "echo")), sink = as_actor(node->resolve(*server, "sink"));
  for (int i = 5; i < count; ++i) run_job<Attached>(system, echo, sink, parse_job(arguments[i]), prepare);
  return 0;
}

int local(caf::actor_system& system, int count, char** arguments) {
  auto partner = system.spawn(echo<Attached>);
  auto swallower = system.spawn(sink<Attached>);
  for (int i = 0; i < count; ++i) {
    run_job<Attached>(system, partner, swallower, parse_job(arguments[i]), [](const caf::actor&) {});
  }
  for (auto& actor : {partner, swallower}) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (!start_logging("fabric_bench", "warn", "text")) return 2;
  caf::actor_system_config config;
  fabric::configure(config);
  caf::actor_system system(config);
  std::string_view role = argc > 1 ? argv[1] : "";
  if (role == "serve" && argc == 6) return serve(system, argv + 2);
  if (role == "drive" && argc > 7) return drive(system, argc - 2, argv + 2);
  if (role == "local" && argc > 2) return local(system, argc - 2, argv + 2);
  std::fprintf(stderr, "fabric_bench_node is started by fabric_bench\n");
  return 2;
}
