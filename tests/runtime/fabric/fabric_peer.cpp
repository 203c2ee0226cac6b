// A node in a process of its own: fabric_peer NAME TRANSPORTS [ENDPOINT]. Publishes "echo", prints its endpoint,
// and with ENDPOINT connects there. Ends when its standard input does.
#include <unistd.h>

#include <caf/all.hpp>
#include <cstdio>

#include "runtime/base/log.h"
#include "runtime/fabric/fabric.h"
#include "schema/generate.capnp.h"

using troupe::fabric::make_message;
using troupe::fabric::Message;
namespace schema = troupe::schema;

namespace {

caf::behavior echo(caf::event_based_actor* self) {
  auto kept = std::make_shared<std::vector<caf::response_promise>>();
  return {
      [=](const Message<schema::Generate>& message) -> caf::result<Message<schema::Cancel>> {
        auto number = message.read()->getRequest();
        if (number == 0) {
          kept->push_back(self->make_response_promise());
          return kept->back();
        }
        return make_message<schema::Cancel>([&](schema::Cancel::Builder cancel) { cancel.setRequest(number + 1); });
      },
      [=](const Message<schema::Cancel>&) { self->quit(caf::exit_reason::user_shutdown); },
  };
}

// What came in over its channel 1 goes back over it.
void mirror(troupe::fabric::Channel channel) {
  std::vector<std::byte> frame(1 << 22);
  while (auto size = channel.receive(frame, std::chrono::minutes(1))) {
    if (!channel.send(std::span(frame).first(*size))) break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || !troupe::start_logging(argv[1], "warn", "text")) return 2;  // standard output is the answer
  caf::actor_system_config config;
  troupe::fabric::configure(config);
  caf::actor_system system(config);
  troupe::fabric::FabricOptions options;
  options.node_name = argv[1];
  options.transports = argv[2];
  options.secret = "cluster secret";
  options.types = troupe::fabric::schema_message_types();
  auto fabric = troupe::fabric::Fabric::start(system, std::move(options));
  if (!fabric) {
    std::fprintf(stderr, "%s\n", fabric.error().message.c_str());
    return 1;
  }
  auto actor = system.spawn(echo);
  (*fabric)->publish("echo", caf::actor_cast<caf::strong_actor_ptr>(actor));
  std::thread mirroring;
  if (argc > 3 && *argv[3]) {
    auto peer = (*fabric)->connect(argv[3]);
    if (!peer) {
      std::fprintf(stderr, "%s\n", peer.error().message.c_str());
      return 1;
    }
    mirroring = std::thread(mirror, (*fabric)->open_channel(*peer, 1));
  }
  std::printf("%s\n", (*fabric)->endpoint().c_str());
  std::fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  fabric->reset();
  if (mirroring.joinable()) mirroring.join();
}
