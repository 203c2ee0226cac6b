#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "cluster/command/gateway_client.h"
#include "cluster/command/verbs.h"

namespace troupe::cluster {
namespace {

constexpr int kInterrupted = 130;  // what shells report for SIGINT

struct GenerateOptions {
  GatewayOptions gateway;
  std::string prompt;
  bool chat = false;
  bool as_json = false;
};

int run_generate(const GenerateOptions& options) {
  auto client = GatewayClient::connect(options.gateway);
  if (!client.ok()) {
    std::cerr << "troupe generate: " << client.error().message << "\n";
    return 1;
  }
  std::string prompt = options.prompt;
  if (prompt.empty() || prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});

  boost::json::object request;
  if (options.chat) {
    request["messages"] = boost::json::array{{{"role", "user"}, {"content", prompt}}};
  } else {
    request["prompt"] = prompt;
  }
  bool line_open = false;
  std::function<void(std::string_view)> on_text = [&line_open](std::string_view text) {
    line_open = true;
    std::cout << text << std::flush;
  };
  std::function<void(std::string_view)> on_chunk;
  if (options.as_json) {
    on_text = [](std::string_view) {};
    on_chunk = [](std::string_view json) { std::cout << json << std::endl; };
  }
  const auto end =
      client->stream(options.chat ? "/v1/chat/completions" : "/v1/completions", std::move(request), on_text, on_chunk);
  if (line_open) std::cout << std::endl;
  if (!end.ok()) {
    std::cerr << "troupe generate: " << end.error().message << "\n";
    return 1;
  }
  return end->stopped ? kInterrupted : 0;
}

}  // namespace

VerbRun prepare_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  app.add_option("PROMPT", options->prompt, "The text to go on with; without it, or with -, standard input");
  app.add_flag("--chat", options->chat, "Send the prompt as a user's message, in the model's chat format");
  app.add_flag("--json", options->as_json, "Print the gateway's events, one JSON object a line, instead of text");
  add_gateway_options(app, options->gateway);
  app.footer(R"(Examples:
  troupe generate "Once upon a time" --max-tokens 100
  troupe generate --chat "What is 17 + 25?" --temperature 0
  troupe generate --json --seed 7 < prompt.txt | jq -j '.choices[0].text'

Exit codes: 0 answered, 1 no answer, 130 stopped with Ctrl-C.)");
  return [options] { return run_generate(*options); };
}

}  // namespace troupe::cluster
