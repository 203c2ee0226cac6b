#include "cluster/command/bench_load.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>
#include <random>
#include <utility>

#include "cluster/bench/html_report.h"
#include "cluster/bench/load_progress.h"
#include "cluster/bench/load_run.h"
#include "cluster/bench/queue_wait.h"
#include "cluster/bench/report_table.h"
#include "cluster/command/bench_target.h"
#include "cluster/command/output_file.h"
#include "cluster/http/served_model.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr int kInterrupted = 130;  // what shells report for SIGINT
constexpr std::uint32_t kDefaultClients = 16;
constexpr std::uint64_t kDefaultRequests = 64;
// Of a server that does not say how large its vocabulary is: few models have less.
constexpr std::uint32_t kDefaultVocabulary = 1000;
constexpr double kLargest = 1e9;
// A server that is overloaded still answers this; if not, the report does without it.
constexpr std::chrono::seconds kMetricsTimeout{5};

// A number in [low, high], or (low, high] if it must be more than `low`. CLI::Range lets nan pass.
CLI::Validator number_in(double low, double high, bool more_than_low = false) {
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        double value = 0;
        const bool right =
            CLI::detail::lexical_cast(text, value) && value >= low && value <= high && !(more_than_low && value == low);
        return right ? "" : fmt::format("{} is not in {}{:g}, {:g}]", text, more_than_low ? "(" : "[", low, high);
      },
      "");
}

// Everything that a run needs, checked.
struct Prepared {
  BenchTarget target;
  ServedModelInfo model;
  std::shared_ptr<const Trace> trace;  // or null
  LoadPlan plan;
  WorkloadOptions workload;
  RequestBodyOptions body;
};

Result<void> read_workload(const BenchLoadOptions& options, Prepared& prepared) {
  WorkloadOptions& workload = prepared.workload;
  const auto length = [](const char* name, const std::string& text, LengthDistribution& into) -> Result<void> {
    auto parsed = LengthDistribution::parse(text);
    if (!parsed.ok()) return std::move(parsed).error().within(name);
    into = *parsed;
    return {};
  };
  TROUPE_RETURN_IF_ERROR(length("--prompt-tokens", options.prompt_tokens, workload.prompt_tokens));
  TROUPE_RETURN_IF_ERROR(length("--max-tokens", options.max_tokens, workload.max_tokens));
  workload.shared_prefix = options.shared_prefix;
  // A fixed default would send every run the same prompts, which the second one would find in the server's cache.
  workload.seed = options.seed ? *options.seed : std::random_device{}();
  workload.prompt_scale = options.trace_prompt_scale;
  workload.output_scale = options.trace_output_scale;
  if (options.trace_block_tokens != 0) workload.block_tokens = options.trace_block_tokens;
  return {};
}

Result<void> read_body(const BenchLoadOptions& options, Prepared& prepared) {
  RequestBodyOptions& body = prepared.body;
  body.chat = options.api == "chat";
  const bool words = options.prompt_kind.empty() ? body.chat : options.prompt_kind == "words";
  body.prompt_kind = words ? PromptKind::kWords : PromptKind::kTokenIds;
  body.temperature = options.temperature;
  body.ignore_eos = options.ignore_eos;
  boost::json::error_code error;
  const boost::json::value extra = boost::json::parse(options.extra, error);
  if (error || !extra.is_object()) {
    return invalid_argument("--extra is not a JSON object such as {\"top_p\": 0.9}");
  }
  body.extra = extra.get_object();
  return {};
}

Result<void> read_trace_options(const BenchLoadOptions& options, const Limits& limits, Prepared& prepared) {
  TROUPE_ASSIGN_OR_RETURN(Trace trace, read_trace(options.trace, limits));
  if (trace.has_blocks()) {
    if (options.trace_prompt_scale != 1) {
      return invalid_argument(
          "--trace-prompt-scale: the prompts of this trace are made of blocks; scale them with "
          "--trace-block-tokens");
    }
    if (options.shared_prefix > 0) {
      return invalid_argument("--shared-prefix: what the prompts of this trace share, its hash_ids say");
    }
  } else if (options.trace_block_tokens != 0) {
    return invalid_argument(
        "--trace-block-tokens: this trace has no hash_ids; scale its prompts with "
        "--trace-prompt-scale");
  }
  prepared.trace = std::make_shared<const Trace>(std::move(trace));
  return {};
}

// Who says when requests are sent: exactly one of --concurrency, --rate and the trace's own times.
Result<void> read_arrivals(const BenchLoadOptions& options, Prepared& prepared) {
  if (options.concurrency > 0 && options.rate > 0) {
    return invalid_argument("--concurrency and --rate exclude each other: a closed loop or an open one");
  }
  const bool by_trace = prepared.trace != nullptr && options.concurrency == 0 && options.rate == 0;
  if (!by_trace && (options.trace_scale != 1 || options.trace_rate > 0)) {
    return invalid_argument(
        "--trace-scale and --trace-rate scale the times of a trace: give --trace, without "
        "--concurrency and --rate");
  }
  if (options.trace_scale != 1 && options.trace_rate > 0) {
    return invalid_argument("--trace-scale and --trace-rate exclude each other");
  }
  LoadPlan& plan = prepared.plan;
  if (options.rate > 0) {
    plan.arrivals = Arrivals::poisson(options.rate, prepared.workload.seed);
  } else if (by_trace) {
    const std::uint64_t all = prepared.trace->requests.size();
    plan.requests = plan.requests == 0 ? all : std::min(plan.requests, all);
    const double scale =
        options.trace_rate > 0 ? prepared.trace->rate(plan.requests) / options.trace_rate : options.trace_scale;
    plan.arrivals = Arrivals::of_trace(prepared.trace, scale);
  }
  plan.concurrency = options.concurrency > 0 ? options.concurrency : kDefaultClients;
  if (plan.requests == 0 && plan.duration_s == 0) plan.requests = kDefaultRequests;
  return {};
}

Result<Prepared> prepare(const BenchLoadOptions& options) {
  Prepared prepared;
  LoadPlan& plan = prepared.plan;
  if (std::max(options.concurrency, options.max_in_flight) > plan.limits.bench_in_flight) {
    return invalid_argument(
        fmt::format("more than {} requests under way (limit bench_in_flight)", plan.limits.bench_in_flight));
  }
  TROUPE_RETURN_IF_ERROR(read_workload(options, prepared));
  TROUPE_RETURN_IF_ERROR(read_body(options, prepared));
  if (!options.trace.empty()) TROUPE_RETURN_IF_ERROR(read_trace_options(options, plan.limits, prepared));
  TROUPE_ASSIGN_OR_RETURN(prepared.target, bench_target(options.target, options.api_key, options.api_key_file));
  plan.server = prepared.target.server;
  plan.target = prepared.target.root + (prepared.body.chat ? "/v1/chat/completions" : "/v1/completions");
  plan.chat = prepared.body.chat;
  plan.timeouts = {std::chrono::seconds(options.timeout_s), std::chrono::seconds(options.request_timeout_s)};
  plan.max_in_flight = options.max_in_flight;
  plan.requests = options.requests;
  plan.duration_s = options.duration_s;
  plan.warmup = options.warmup;
  plan.service_level = {options.slo_ttft_ms, options.slo_tpot_ms};
  TROUPE_RETURN_IF_ERROR(read_arrivals(options, prepared));
  return prepared;
}

// What the options leave open, the server is asked for.
Result<void> ask_server(const BenchLoadOptions& options, HttpClient& http, Prepared& prepared) {
  if (options.model.empty() || options.vocab_size == 0 || options.max_model_len == 0) {
    auto asked = ask_served_model(http, prepared.target.root, options.model);
    // One who named the model can do without the rest, but not without a server.
    const bool needed = options.model.empty() || (!asked.ok() && (asked.error().code == ErrorCode::kUnavailable ||
                                                                  asked.error().code == ErrorCode::kDeadlineExceeded));
    if (!asked.ok() && needed) return asked.error();
    if (asked.ok()) prepared.model = *std::move(asked);
  }
  ServedModelInfo& model = prepared.model;
  if (!options.model.empty()) model.name = options.model;
  if (options.vocab_size != 0) model.vocab_size = options.vocab_size;
  if (options.max_model_len != 0) model.max_model_len = options.max_model_len;
  prepared.body.model = model.name;
  prepared.workload.vocab_size = model.vocab_size >= 10 ? model.vocab_size : kDefaultVocabulary;
  prepared.workload.max_model_len = model.max_model_len >= 2 ? model.max_model_len : 0;
  return {};
}

std::string load_text(const BenchLoadOptions& options, const Prepared& prepared) {
  std::string text;
  if (!prepared.plan.arrivals) {
    text = fmt::format("closed loop, {} clients", prepared.plan.concurrency);
  } else if (options.rate > 0) {
    text = fmt::format("open loop, {:g} requests/s (Poisson)", options.rate);
  } else if (options.trace_rate > 0) {
    text = fmt::format("open loop, arrivals of the trace at {:g} requests/s", options.trace_rate);
  } else {
    text = fmt::format("open loop, arrivals of the trace, times x {:g}", options.trace_scale);
  }
  return text;
}

std::string workload_text(const BenchLoadOptions& options, const Prepared& prepared) {
  const WorkloadOptions& workload = prepared.workload;
  std::string text;
  if (prepared.trace == nullptr) {
    text = fmt::format("prompts of {} tokens, answers of {}", workload.prompt_tokens.to_string(),
                       workload.max_tokens.to_string());
  } else {
    text = "trace " + one_line(options.trace);
    if (prepared.trace->has_blocks()) text += fmt::format(", blocks of {} tokens", workload.block_tokens);
    if (workload.prompt_scale != 1) text += fmt::format(", prompts x {:g}", workload.prompt_scale);
    if (workload.output_scale != 1) text += fmt::format(", answers x {:g}", workload.output_scale);
  }
  if (workload.shared_prefix > 0) text += fmt::format(", {} of them shared", workload.shared_prefix);
  return text + fmt::format(", seed {}", workload.seed);
}

int write_results(const BenchReport& report, const std::string& json_file, const std::string& html_file) {
  if (json_file != "-" && html_file != "-") fmt::print("{}", report_table(report));
  int code = 0;
  if (!json_file.empty()) {
    code = write_output("troupe bench", json_file, boost::json::serialize(to_json(report)) + "\n");
  }
  if (!html_file.empty() && code == 0) code = write_output("troupe bench", html_file, html_report(report));
  return code;
}

}  // namespace

int run_bench_load(const BenchLoadOptions& options, const std::string& json_file, const std::string& html_file) {
  const auto refuse = [](const Error& error) {
    fmt::print(stderr, "troupe bench: {}\n", error.message);
    return error.code == ErrorCode::kUnavailable || error.code == ErrorCode::kDeadlineExceeded ? 1 : 2;
  };
  auto prepared = prepare(options);
  if (!prepared.ok()) return refuse(prepared.error());
  HttpClient http(prepared->target.server, std::chrono::seconds(options.timeout_s));
  if (auto asked = ask_server(options, http, *prepared); !asked.ok()) return refuse(asked.error());
  auto body = RequestBody::make(prepared->body);
  if (!body.ok()) return refuse(body.error());

  LoadProgressView view(isatty(STDERR_FILENO) != 0);
  LoadRun run(prepared->plan, Workload(prepared->workload, prepared->trace), *std::move(body), prepared->trace,
              [&](const LoadProgress& progress) { view.show(progress); });
  if (auto warm = run.warm_up(); !warm.ok()) {
    fmt::print(stderr, "troupe bench: {}\n", warm.error().message);
    return run.interrupted() ? kInterrupted : 1;
  }
  const std::string started_at = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  HttpClient metrics(prepared->target.server, kMetricsTimeout);
  const auto queue_before = ask_queue_wait(metrics, prepared->target.root);
  const Measurements& measured = run.measure();
  view.clear();
  BenchReport report = measured.report();
  report.label = options.label;
  report.target = prepared->target.url;
  report.model = prepared->model.name;
  report.api = options.api;
  report.load = load_text(options, *prepared);
  report.workload = workload_text(options, *prepared);
  report.started_at = started_at;
  report.queue_wait_ms = mean_queue_wait_ms(queue_before, ask_queue_wait(metrics, prepared->target.root));
  const int code = write_results(report, json_file, html_file);
  if (run.interrupted()) return kInterrupted;
  return code != 0 || report.answered == 0 ? 1 : 0;
}

void add_bench_load_options(CLI::App& app, BenchLoadOptions& options) {
  const std::string where = "A server under load", when = "When requests are sent", what = "What is sent",
                    trace = "Traces", goal = "What counts";
  app.add_option("TARGET,--url", options.target,
                 "http://HOST:PORT of any OpenAI-compatible server, or the topology file of a running cluster")
      ->group(where);
  app.add_option("--model", options.model, "Served model name; default: the first one served")->group(where);
  app.add_option("--api", options.api, "completions or chat")
      ->capture_default_str()
      ->check(CLI::IsMember({"completions", "chat"}))
      ->group(where);
  app.add_option("--api-key", options.api_key, "API key; others on this machine can see it, unlike that of a file")
      ->group(where);
  app.add_option("--api-key-file", options.api_key_file, "File whose first line is the API key")->group(where);
  app.add_option("--timeout", options.timeout_s, "Seconds without a byte after which a request has failed")
      ->capture_default_str()
      ->check(CLI::Range(1, 86400))
      ->group(where);
  app.add_option("--request-timeout", options.request_timeout_s, "Seconds in all after which it has")
      ->capture_default_str()
      ->check(CLI::Range(1, 86400))
      ->group(where);

  app.add_option("--concurrency", options.concurrency,
                 "Closed loop: so many clients, each of which sends when its last answer is whole; default 16")
      ->check(CLI::Range(1, 1 << 20))
      ->group(when);
  app.add_option("--rate", options.rate, "Open loop: requests a second, Poisson arrivals")
      ->check(number_in(0, kLargest, true))
      ->group(when);
  app.add_option("--max-in-flight", options.max_in_flight,
                 "Of an open loop; requests that are due beyond it are not sent, but counted")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->group(when);
  app.add_option("--requests", options.requests, "Requests that count; default 64, or those of the trace or duration")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 40))
      ->group(when);
  app.add_option("--duration", options.duration_s, "Seconds after which none are sent")
      ->check(number_in(0, kLargest, true))
      ->group(when);
  app.add_option("--warmup", options.warmup, "Short requests before, one after the other, that do not count")
      ->capture_default_str()
      ->check(CLI::Range(0, 10000))
      ->group(when);

  app.add_option("--prompt-tokens", options.prompt_tokens,
                 "Length of the prompts: 128, 64-256 (uniform) or lognormal:MEDIAN:DEVIATION")
      ->capture_default_str()
      ->group(what);
  app.add_option("--max-tokens", options.max_tokens, "Length of the answers, in the same forms")
      ->capture_default_str()
      ->group(what);
  app.add_option("--prompt-kind", options.prompt_kind,
                 "ids (random tokens; default for completions) or words (about a token each; default for chat)")
      ->check(CLI::IsMember({"ids", "words"}))
      ->group(what);
  app.add_option("--shared-prefix", options.shared_prefix, "So many tokens of each prompt are the same in all")
      ->check(CLI::Range(0, 1 << 20))
      ->group(what);
  app.add_option("--vocab-size", options.vocab_size,
                 "Token ids are below it; default: what the server says, or 1000 if it does not")
      ->check(CLI::Range(10, 1 << 24))
      ->group(what);
  app.add_option("--max-model-len", options.max_model_len,
                 "Prompt and answer are clipped to it together; default: what the server says")
      ->check(CLI::Range(2, 1 << 24))
      ->group(what);
  app.add_option("--seed", options.seed,
                 "The same seed sends the same requests at the same times; default: drawn, and told")
      ->group(what);
  app.add_flag("--ignore-eos", options.ignore_eos, "Generate all tokens, also after the end-of-text token")
      ->group(what);
  app.add_option("--temperature", options.temperature, "0 = always the likeliest token")
      ->capture_default_str()
      ->check(number_in(0, 2))
      ->group(what);
  app.add_option("--extra", options.extra, "JSON object that is merged into each request")->group(what);

  app.add_option("--trace", options.trace,
                 "CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or JSONL (timestamp, input_length, output_length, "
                 "hash_ids): lengths and shared blocks, and the arrivals unless --rate or --concurrency is given")
      ->excludes("--prompt-tokens")
      ->excludes("--max-tokens")
      ->group(trace);
  app.add_option("--trace-scale", options.trace_scale, "Factor of the arrival times: 0.5 = twice the load")
      ->capture_default_str()
      ->check(number_in(0, kLargest))
      ->group(trace);
  app.add_option("--trace-rate", options.trace_rate, "Or scale them so that those sent are so many a second on average")
      ->check(number_in(0, kLargest, true))
      ->group(trace);
  app.add_option("--trace-block-tokens", options.trace_block_tokens,
                 "Tokens of what is a block of 512 in the trace; the prompts shrink with it")
      ->check(CLI::Range(1, 1 << 16))
      ->group(trace);
  app.add_option("--trace-prompt-scale", options.trace_prompt_scale,
                 "Factor of prompt lengths, of a trace without blocks")
      ->capture_default_str()
      ->check(number_in(0, kLargest, true))
      ->group(trace);
  app.add_option("--trace-output-scale", options.trace_output_scale, "Factor of answer lengths")
      ->capture_default_str()
      ->check(number_in(0, kLargest, true))
      ->group(trace);

  app.add_option("--slo-ttft-ms", options.slo_ttft_ms, "Goodput counts answers with a first token within it")
      ->check(number_in(0, kLargest, true))
      ->group(goal);
  app.add_option("--slo-tpot-ms", options.slo_tpot_ms, "and with at most so long for each token after it")
      ->check(number_in(0, kLargest, true))
      ->group(goal);
  app.add_option("--label", options.label, "A name for this run, in reports and comparisons")->group(goal);
}

}  // namespace troupe::cluster
