#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "cluster/command/gateway_client.h"
#include "cluster/command/verbs.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

struct ChatOptions {
  GatewayOptions gateway;
  std::string system;
};

json::object message(std::string_view role, std::string_view content) { return {{"role", role}, {"content", content}}; }

// The conversation so far, and the exchange of one turn.
class Conversation {
 public:
  Conversation(GatewayClient& client, std::string system) : client_(client), system_(std::move(system)) { reset(); }

  void reset() {
    messages_.clear();
    if (!system_.empty()) messages_.push_back(message("system", system_));
  }

  // Streams the answer to standard output and remembers it, also a part of one that Ctrl-C cut off. A turn that failed
  // leaves no trace, so that it can be tried again.
  Result<void> say(const std::string& line) {
    messages_.push_back(message("user", line));
    std::string answer;
    const auto end =
        client_.stream("/v1/chat/completions", {{"messages", messages_}}, [&answer](std::string_view text) {
          answer += text;
          std::cout << text << std::flush;
        });
    if (!answer.empty() || end.ok()) std::cout << std::endl;
    if (!end.ok()) {
      messages_.pop_back();
      return end.error();
    }
    messages_.push_back(message("assistant", answer));
    if (end->stopped) std::cerr << "(stopped)" << std::endl;
    if (end->finish_reason == "length") std::cerr << "(cut off at the longest answer allowed)" << std::endl;
    return {};
  }

 private:
  GatewayClient& client_;
  std::string system_;
  json::array messages_;
};

int run_chat(const ChatOptions& options) {
  auto client = GatewayClient::connect(options.gateway);
  if (!client.ok()) {
    std::cerr << "troupe chat: " << client.error().message << "\n";
    return 1;
  }
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::cerr << "Talking to " << client->model()
              << ". Ctrl-C stops an answer; /reset forgets the conversation; /exit or Ctrl-D ends it.\n";
  }
  Conversation conversation(*client, options.system);
  int exit_code = 0;
  std::string line;
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    if (line == "/exit") break;
    if (line == "/reset") {
      conversation.reset();
      continue;
    }
    if (auto said = conversation.say(line); !said.ok()) {
      std::cerr << "troupe chat: " << said.error().message << std::endl;
      exit_code = 1;
      if (!terminal) break;
    }
  }
  if (terminal) std::cerr << "\n";
  return exit_code;
}

}  // namespace

VerbRun prepare_chat(CLI::App& app) {
  auto options = std::make_shared<ChatOptions>();
  app.add_option("--system", options->system, "A system message before the conversation");
  add_gateway_options(app, options->gateway);
  app.footer(
      R"(Reads a line, streams the answer, and remembers both. Ctrl-C stops an answer; /reset forgets the conversation;
/exit or Ctrl-D ends it. Lines may come from a pipe as well.

Examples:
  troupe chat
  troupe chat --system "Answer in one word." --temperature 0
  printf 'What is 17 + 25?\nAnd 3 more?\n' | troupe chat --port 8080

Exit codes: 0 ended, 1 no gateway, or a request failed.)");
  return [options] { return run_chat(*options); };
}

}  // namespace troupe::cluster
