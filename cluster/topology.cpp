#include "cluster/topology.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "cluster/document.h"
#include "cluster/topology_reader.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

namespace fs = std::filesystem;

// At most `max_bytes` of a file.
Result<std::string> read_file(const std::string& file, std::uint64_t max_bytes) {
  std::error_code error;
  if (fs::is_directory(file, error)) return invalid_argument("is a directory, not a topology file");
  std::ifstream in(file, std::ios::binary);
  if (!in) return not_found("cannot be opened: " + std::error_code(errno, std::generic_category()).message());
  std::string text;
  std::array<char, 1 << 14> chunk;
  while (in.read(chunk.data(), chunk.size()), in.gcount() > 0) {
    text.append(chunk.data(), static_cast<std::size_t>(in.gcount()));
    if (text.size() > max_bytes) {
      return resource_exhausted("is larger than topology_file_bytes (" + std::to_string(max_bytes) + ")");
    }
  }
  if (in.bad()) return unavailable("cannot be read to its end");
  return text;
}

// Makes a path of the file absolute: beside the topology file if it exists there, else in the current directory.
void resolve(Placed<std::string>& path, const fs::path& folder, const std::string& what, Diagnostics& diagnostics) {
  if (path->empty()) return;
  std::error_code error;
  const fs::path written(*path);
  const fs::path beside = fs::absolute(folder / written, error).lexically_normal();
  const fs::path here = fs::absolute(written, error).lexically_normal();
  for (const fs::path& candidate : {beside, here}) {
    if (fs::exists(candidate, error)) {
      path.value = candidate.string();
      return;
    }
  }
  diagnostics.error(path.place, what + " '" + printable(*path) + "' does not exist; looked for " +
                                    one_line(beside.string()) +
                                    (here == beside ? "" : " and " + one_line(here.string())));
}

TopologyReading finish(std::optional<Topology> topology, Diagnostics& diagnostics) {
  TopologyReading reading;
  if (!diagnostics.has_errors()) reading.topology = std::move(topology);
  reading.diagnostics = diagnostics.take();
  return reading;
}

std::optional<Topology> read_text(std::string_view text, std::string_view file, Diagnostics& diagnostics) {
  const auto root = parse_document(text, diagnostics);
  if (!root) return std::nullopt;
  return read_tree(*root, file, diagnostics);
}

}  // namespace

bool Topology::names_gpus() const {
  const auto& draft = speculation.device;
  if (draft && (*draft)->kind == Device::Kind::kCuda) return true;
  return std::any_of(nodes.begin(), nodes.end(), [](const NodeSpec& node) {
    return std::any_of(node.devices.begin(), node.devices.end(),
                       [](const Placed<Device>& device) { return device->kind == Device::Kind::kCuda; });
  });
}

const NodeSpec* Topology::find_node(std::string_view name) const {
  const auto found = std::find_if(nodes.begin(), nodes.end(), [&](const NodeSpec& node) { return *node.name == name; });
  return found == nodes.end() ? nullptr : &*found;
}

TopologyReading parse_topology(std::string_view text, std::string_view file) {
  Diagnostics diagnostics;
  auto topology = read_text(text, file, diagnostics);
  return finish(std::move(topology), diagnostics);
}

TopologyReading read_topology(const std::string& file) {
  Diagnostics diagnostics;
  auto text = read_file(file, Limits().topology_file_bytes);
  if (!text.ok()) {
    diagnostics.error({}, text.error().message);
    return finish(std::nullopt, diagnostics);
  }
  auto topology = read_text(*text, file, diagnostics);
  if (topology) {
    const fs::path folder = fs::path(file).parent_path();
    resolve(topology->model, folder, "the model", diagnostics);
    resolve(topology->speculation.model, folder, "the draft's model", diagnostics);
    resolve(topology->fabric.secret_file, folder, "the secret file", diagnostics);
    if (topology->place.gateway)
      resolve(topology->place.gateway->api_key_file, folder, "the API key file", diagnostics);
  }
  return finish(std::move(topology), diagnostics);
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
  struct Unit {
    std::string_view name;
    double bytes;
  };
  static constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                                   {"B", 1},
                                                   {"KiB", 0x1p10},
                                                   {"MiB", 0x1p20},
                                                   {"GiB", 0x1p30},
                                                   {"TiB", 0x1p40},
                                                   {"KB", 1e3},
                                                   {"MB", 1e6},
                                                   {"GB", 1e9},
                                                   {"TB", 1e12}}};
  const auto error = [text] {
    return invalid_argument("'" + printable(text) + "' is not a number of bytes such as 65536, 64KiB, 1.5GB or 2GiB");
  };
  double number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (status != std::errc() || !std::isfinite(number) || number < 0) return error();
  std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  while (suffix.starts_with(' ')) suffix.remove_prefix(1);
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) { return u.name == suffix; });
  if (unit == kUnits.end()) return error();
  const double bytes = number * unit->bytes;
  if (bytes > 0x1p62 || bytes != std::floor(bytes)) return error();
  return static_cast<std::uint64_t>(bytes);
}

Result<SpeculationSpec> parse_speculation(std::string_view text) {
  if (text == "off") return SpeculationSpec{.kind = {SpeculationSpec::Kind::kOff}};
  if (text == "ngram") return SpeculationSpec{};
  return invalid_argument(
      "'" + printable(text) + "' is no kind of speculation; write off or ngram, or name a draft's model",
      "speculation");
}

Result<SpeculationSpec> parse_speculation_or_draft(std::string_view text) {
  auto parsed = parse_speculation(text);
  if (parsed.ok()) return parsed;
  std::error_code error;
  const fs::path draft = fs::canonical(fs::path(text), error);
  if (error) return invalid_argument(parsed.error().message + " that exists", "speculation");
  SpeculationSpec spec{.kind = {SpeculationSpec::Kind::kDraft}};
  spec.model = draft.string();
  return spec;
}

Result<std::pair<std::string, std::uint16_t>> parse_endpoint(std::string_view text) {
  const auto error = [text](const std::string& why) {
    return invalid_argument("'" + printable(text) + "' " + why + "; expected HOST:PORT such as 127.0.0.1:8080");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return error("has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return error("needs brackets around an IPv6 address, [::1]:8080");
  }
  if (host.empty() || host.size() > 253) return error("has no host");
  std::uint32_t port = 0;
  const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (digits.empty() || status != std::errc() || end != digits.data() + digits.size() || port > 65535) {
    return error("has a port that is not a number from 0 to 65535");
  }
  return std::pair(std::string(host), static_cast<std::uint16_t>(port));
}

}  // namespace troupe::cluster
