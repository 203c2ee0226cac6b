#include "cluster/diagnostic.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace troupe::cluster {
namespace {

// Longer words are not typing errors of a key, and the distance costs the product of the lengths.
constexpr std::size_t kMaxWord = 64;

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

// Optimal string alignment distance. REQUIRES: both at most kMaxWord long.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::array<std::array<std::size_t, kMaxWord + 1>, kMaxWord + 1> distance;
  for (std::size_t i = 0; i <= a.size(); ++i) distance[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) distance[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const bool same = lower(a[i - 1]) == lower(b[j - 1]);
      std::size_t best = std::min(distance[i - 1][j], distance[i][j - 1]) + 1;
      best = std::min(best, distance[i - 1][j - 1] + (same ? 0 : 1));
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1])) {
        best = std::min(best, distance[i - 2][j - 2] + 1);
      }
      distance[i][j] = best;
    }
  }
  return distance[a.size()][b.size()];
}

}  // namespace

std::string Diagnostic::to_string(std::string_view file) const {
  std::string text(file);
  if (place.known()) text += ":" + std::to_string(place.line) + ":" + std::to_string(place.column);
  return text + (severity == Severity::kWarning ? ": warning: " : ": ") + message;
}

void Diagnostics::error(Place place, std::string message) {
  ++errors_;
  add({Diagnostic::Severity::kError, place, std::move(message)});
}

void Diagnostics::warning(Place place, std::string message) {
  add({Diagnostic::Severity::kWarning, place, std::move(message)});
}

void Diagnostics::add(Diagnostic diagnostic) {
  if (items_.size() < kMaxDiagnostics) items_.push_back(std::move(diagnostic));
}

std::vector<Diagnostic> Diagnostics::take() {
  const auto order = [](const Diagnostic& d) {
    return std::pair(d.place.known() ? d.place.line : UINT32_MAX, d.place.column);
  };
  std::stable_sort(items_.begin(), items_.end(),
                   [&](const Diagnostic& a, const Diagnostic& b) { return order(a) < order(b); });
  // Warnings alone may have filled the list: the caller must still see that there was an error.
  if (errors_ > 0 && !cluster::has_errors(items_)) {
    items_.push_back({Diagnostic::Severity::kError, {}, "too many findings; there are errors among the rest"});
  }
  return std::move(items_);
}

bool has_errors(const std::vector<Diagnostic>& diagnostics) {
  return std::any_of(diagnostics.begin(), diagnostics.end(),
                     [](const Diagnostic& d) { return d.severity == Diagnostic::Severity::kError; });
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.size() > kMaxWord) return {};
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxWord) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string any_of(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

std::string suggestion(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string meant = nearest(word, candidates);
  if (!meant.empty()) return "did you mean '" + meant + "'?";
  return candidates.empty() ? "there is none" : "expected " + any_of(candidates);
}

}  // namespace troupe::cluster
