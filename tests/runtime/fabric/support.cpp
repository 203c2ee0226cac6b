#include "tests/runtime/fabric/support.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <stdexcept>

namespace troupe::fabric::test {

Ping ping(std::uint64_t number, std::size_t attachment_bytes) {
  MessageBuilder<schema::Generate> builder;
  builder.root().setRequest(number);
  if (attachment_bytes > 0) {
    auto attachment = Attachment::allocate(attachment_bytes);
    std::fill_n(attachment.mutable_data(), attachment_bytes, static_cast<std::byte>(number));
    builder.attach(std::move(attachment));
  }
  return std::move(builder).finish();
}

Pong pong(std::uint64_t number) {
  return make_message<schema::Cancel>([&](schema::Cancel::Builder cancel) { cancel.setRequest(number); });
}

std::uint64_t number_of(const Ping& message) {
  auto reader = message.read();
  return reader->getRequest();
}

std::uint64_t number_of(const Pong& message) {
  auto reader = message.read();
  return reader->getRequest();
}

Node::Config::Config() {
  configure(*this);
  set("scheduler.max-threads", std::size_t{2});
}

Node::Node(const std::string& name, Limits limits, const std::string& secret, const std::string& transports)
    : system_(config_) {
  FabricOptions options;
  options.node_name = name;
  options.secret = secret;
  options.limits = limits;
  options.types = schema_message_types();
  options.transports = transports;
  auto started = Fabric::start(system_, std::move(options));
  if (!started) throw std::runtime_error(started.error().message);
  fabric_ = std::move(started).value();
}

Node::~Node() { fabric_.reset(); }

caf::actor Node::resolve(const NodeId& node, const std::string& name) {
  return caf::actor_cast<caf::actor>(fabric_->resolve(node, name));
}

caf::behavior echo(caf::event_based_actor* self) {
  auto kept = std::make_shared<std::vector<caf::response_promise>>();
  return {
      [=](const Ping& message) -> caf::result<Pong> {
        auto number = number_of(message);
        if (number == 0) {
          kept->push_back(self->make_response_promise());
          return kept->back();
        }
        for (const auto& attachment : message.attachments()) {
          for (auto byte : attachment.bytes()) {
            if (byte != static_cast<std::byte>(number)) return caf::make_error(caf::sec::invalid_argument, "damaged");
          }
        }
        return pong(number + 1);
      },
      [=](const Pong&) { self->quit(caf::exit_reason::user_shutdown); },
  };
}

Outcome ask(caf::scoped_actor& self, const caf::actor& actor, const Ping& message) {
  Outcome outcome;
  self->request(actor, kPatience, message)
      .receive([&](const Pong& answer) { outcome.number = number_of(answer); },
               [&](caf::error& error) { outcome.error = std::move(error); });
  return outcome;
}

PeerProcess::PeerProcess(const std::string& name, const std::string& transports, const std::string& connect_to) {
  int to_child[2], from_child[2];
  if (pipe(to_child) != 0 || pipe(from_child) != 0) throw std::runtime_error("pipe");
  pid_ = fork();
  if (pid_ == 0) {
    dup2(to_child[0], STDIN_FILENO);
    dup2(from_child[1], STDOUT_FILENO);
    for (int fd : {to_child[0], to_child[1], from_child[0], from_child[1]}) close(fd);
    execl(FABRIC_PEER, FABRIC_PEER, name.c_str(), transports.c_str(), connect_to.c_str(), nullptr);
    _exit(127);
  }
  close(to_child[0]);
  close(from_child[1]);
  input_ = to_child[1];
  char byte;
  while (read(from_child[0], &byte, 1) == 1 && byte != '\n') endpoint_ += byte;
  close(from_child[0]);
  if (endpoint_.empty()) throw std::runtime_error("fabric_peer did not start");
}

PeerProcess::~PeerProcess() {
  kill_and_wait();
  close(input_);
}

void PeerProcess::signal(int number) {
  kill(pid_, number);
  if (number == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);  // until then it may still answer
}

void PeerProcess::kill_and_wait() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace troupe::fabric::test
