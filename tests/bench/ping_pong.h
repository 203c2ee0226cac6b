#pragma once

#include <caf/all.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

// The measurement itself, the same for every way of moving a message between two actors. A Protocol has
//   Message                              what travels
//   make(number, bytes) -> Message       shares the payload of `bytes` bytes between calls
//   number_of(const Message&)            as given to make()
namespace troupe::bench {

using Clock = std::chrono::steady_clock;

inline constexpr std::uint64_t kWantsAnswer = std::uint64_t{1} << 63;

struct Job {
  std::size_t bytes = 0;
  std::size_t round_trips = 0;
  std::size_t streamed = 0;
};

// "BYTES:ROUND_TRIPS:STREAMED"
inline Job parse_job(const char* text) {
  Job job;
  if (std::sscanf(text, "%zu:%zu:%zu", &job.bytes, &job.round_trips, &job.streamed) != 3 || job.round_trips == 0 ||
      job.streamed == 0) {
    std::fprintf(stderr, "'%s' is not BYTES:ROUND_TRIPS:STREAMED\n", text);
    std::exit(2);
  }
  return job;
}

// Sends every message back.
template <class Protocol>
caf::behavior echo(caf::event_based_actor*) {
  return {[](const typename Protocol::Message& message) { return message; }};
}

// Swallows messages, insists on their order, and answers those that want it.
template <class Protocol>
caf::behavior sink(caf::event_based_actor* self) {
  auto expected = std::make_shared<std::uint64_t>(0);
  return {[=](const typename Protocol::Message& message) {
    auto number = Protocol::number_of(message);
    auto plain = number & ~kWantsAnswer;
    if (plain == 0) *expected = 0;  // a new stream
    if (plain != (*expected)++) {
      std::fprintf(stderr, "message %llu arrived where %llu was due\n", static_cast<unsigned long long>(plain),
                   static_cast<unsigned long long>(*expected - 1));
      std::_Exit(3);
    }
    if (number & kWantsAnswer) {
      self->send(caf::actor_cast<caf::actor>(self->current_sender()), Protocol::make(number, 0));
    }
  }};
}

// One message at a time, there and back. Tells half of each round trip in microseconds.
template <class Protocol>
caf::behavior measure_latency(caf::event_based_actor* self, caf::actor partner, Job job,
                              std::shared_ptr<std::promise<std::vector<double>>> told) {
  struct State {
    std::size_t to_skip;
    Clock::time_point sent;
    std::vector<double> one_way_us;
  };
  auto state = std::make_shared<State>(State{job.round_trips / 10 + 1, {}, {}});
  state->one_way_us.reserve(job.round_trips);
  auto ask = [=] {
    auto message = Protocol::make(state->one_way_us.size(), job.bytes);
    state->sent = Clock::now();
    self->send(partner, std::move(message));
  };
  return {[=](caf::ok_atom) { ask(); },
          [=](const typename Protocol::Message&) {
            std::chrono::duration<double, std::micro> round_trip = Clock::now() - state->sent;
            if (state->to_skip > 0) {
              --state->to_skip;
            } else {
              state->one_way_us.push_back(round_trip.count() / 2);
            }
            if (state->one_way_us.size() < job.round_trips) return ask();
            told->set_value(std::move(state->one_way_us));
            self->quit();
          }};
}

// Many messages one way, some of them under way at any time. Tells the seconds they took.
template <class Protocol>
caf::behavior measure_stream(caf::event_based_actor* self, caf::actor partner, Job job,
                             std::shared_ptr<std::promise<double>> told) {
  constexpr std::size_t kUnderWayBytes = 32 << 20;
  constexpr std::size_t kMostUnderWay = 1024;
  struct State {
    std::uint64_t sent = 0;
    std::uint64_t answered = 0;
    Clock::time_point start;
  };
  auto state = std::make_shared<State>();
  auto window = std::clamp<std::size_t>(kUnderWayBytes / std::max<std::size_t>(1, job.bytes), 2, kMostUnderWay);
  auto piece = std::max<std::size_t>(1, window / 4);
  auto refill = [=] {
    while (state->sent < job.streamed && state->sent < state->answered + window) {
      auto number = state->sent++;
      bool wants_answer = state->sent % piece == 0 || state->sent == job.streamed;
      self->send(partner, Protocol::make(number | (wants_answer ? kWantsAnswer : 0), job.bytes));
    }
  };
  return {[=](caf::ok_atom) {
            state->start = Clock::now();
            refill();
          },
          [=](const typename Protocol::Message& answer) {
            state->answered = (Protocol::number_of(answer) & ~kWantsAnswer) + 1;
            if (state->answered < job.streamed) return refill();
            told->set_value(std::chrono::duration<double>(Clock::now() - state->start).count());
            self->quit();
          }};
}

inline double percentile(std::vector<double>& values, double share) {
  auto at = values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Runs one job against partners "echo" and "sink" and prints it as a line of JSON. `prepare` sees each measuring
// actor before it starts.
template <class Protocol>
void run_job(caf::actor_system& system, const caf::actor& echo, const caf::actor& sink, const Job& job,
             const std::function<void(const caf::actor&)>& prepare) {
  auto start = [&](const caf::actor& driver) {
    prepare(driver);
    caf::anon_send(driver, caf::ok_atom::value);
  };
  // Shared: the actor may still be inside set_value() when the future is ready.
  auto latency = std::make_shared<std::promise<std::vector<double>>>();
  start(system.spawn(measure_latency<Protocol>, echo, job, latency));
  auto one_way_us = latency->get_future().get();

  auto stream = [&](std::size_t messages) {
    auto told = std::make_shared<std::promise<double>>();
    start(system.spawn(measure_stream<Protocol>, sink, Job{job.bytes, job.round_trips, messages}, told));
    return told->get_future().get();
  };
  stream(job.streamed / 10 + 1);  // fills pools and caches
  double seconds = stream(job.streamed);

  auto p50 = percentile(one_way_us, 0.5), p99 = percentile(one_way_us, 0.99);
  auto rate = static_cast<double>(job.streamed) / seconds;
  std::printf("{\"bytes\": %zu, \"p50_us\": %.3f, \"p99_us\": %.3f, \"rate\": %.1f, \"bandwidth\": %.0f}\n", job.bytes,
              p50, p99, rate, rate * static_cast<double>(job.bytes));
  std::fflush(stdout);
}

}  // namespace troupe::bench
