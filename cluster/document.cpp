#include "cluster/document.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>
#include <utility>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

Place place_of(const YAML::Mark& mark) {
  if (mark.is_null()) return {};
  return {static_cast<std::uint32_t>(mark.line) + 1, static_cast<std::uint32_t>(mark.column) + 1};
}

// A document that is valid YAML but not one of ours. Thrown out of the handler, for yaml-cpp has no other way to stop.
struct Refusal {
  Place place;
  std::string message;
};

// Builds the tree from yaml-cpp's events. Its ready-made tree (YAML::Node) would expand aliases, swallow keys given
// twice and forget where keys stood.
class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(Diagnostics& diagnostics) : diagnostics_(diagnostics) {}

  std::optional<DocumentNode> take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { put(node(DocumentNode::Kind::kNull, mark)); }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Refusal{place_of(mark), "aliases (*name) are not supported here; write the value out"};
  }

  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t, const std::string& value) override {
    if (!open_.empty() && open_.back().wants_key()) {
      open_.back().key = value;
      open_.back().key_place = place_of(mark);
      count(mark);
      return;
    }
    DocumentNode scalar = node(DocumentNode::Kind::kScalar, mark);
    scalar.scalar = value;
    put(std::move(scalar));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    enter(node(DocumentNode::Kind::kSequence, mark), mark);
  }
  void OnSequenceEnd() override { leave(); }

  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    enter(node(DocumentNode::Kind::kMap, mark), mark);
  }
  void OnMapEnd() override { leave(); }

 private:
  // A map or sequence whose end has not come yet.
  struct Open {
    DocumentNode node;
    std::optional<std::string> key;  // of a map: read, its value has not come yet
    Place key_place;
    std::map<std::string, Place, std::less<>> keys;

    bool wants_key() const { return node.kind == DocumentNode::Kind::kMap && !key; }
  };

  void count(const YAML::Mark& mark) {
    if (++nodes_ > kMaxDocumentNodes) {
      throw Refusal{place_of(mark), "more than " + std::to_string(kMaxDocumentNodes) + " values"};
    }
  }

  DocumentNode node(DocumentNode::Kind kind, const YAML::Mark& mark) {
    count(mark);
    if (!open_.empty() && open_.back().wants_key()) throw Refusal{place_of(mark), "a key must be a plain word"};
    DocumentNode made;
    made.kind = kind;
    made.place = place_of(mark);
    return made;
  }

  void enter(DocumentNode container, const YAML::Mark& mark) {
    if (open_.size() == kMaxDocumentDepth) {
      throw Refusal{place_of(mark), "nested deeper than " + std::to_string(kMaxDocumentDepth) + " levels"};
    }
    Open open;
    open.node = std::move(container);
    open_.push_back(std::move(open));
  }

  void leave() {
    DocumentNode done = std::move(open_.back().node);
    open_.pop_back();
    put(std::move(done));
  }

  void put(DocumentNode value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == DocumentNode::Kind::kSequence) {
      parent.node.items.push_back(std::move(value));
      return;
    }
    std::string key = std::move(*parent.key);
    parent.key.reset();
    const auto [first, is_new] = parent.keys.emplace(key, parent.key_place);
    if (!is_new) {
      diagnostics_.error(parent.key_place, "key '" + printable(key) + "' is given twice; it stands in line " +
                                               std::to_string(first->second.line) + " already");
      return;
    }
    // An absent value has no place of its own: point at its key.
    if (value.kind == DocumentNode::Kind::kNull) value.place = parent.key_place;
    parent.node.entries.push_back({std::move(key), parent.key_place, std::move(value)});
  }

  Diagnostics& diagnostics_;
  std::vector<Open> open_;
  std::optional<DocumentNode> root_;
  std::size_t nodes_ = 0;
};

}  // namespace

std::string_view describe(DocumentNode::Kind kind) {
  switch (kind) {
    case DocumentNode::Kind::kNull: return "nothing";
    case DocumentNode::Kind::kScalar: return "a single value";
    case DocumentNode::Kind::kSequence: return "a list";
    case DocumentNode::Kind::kMap: return "a map";
  }
  return "nothing";
}

std::optional<DocumentNode> parse_document(std::string_view text, Diagnostics& diagnostics) {
  TreeBuilder builder(diagnostics);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      diagnostics.error({1, 1}, "the file is empty");
      return std::nullopt;
    }
    std::optional<DocumentNode> root = builder.take();
    TreeBuilder rest(diagnostics);
    if (parser.HandleNextDocument(rest)) {
      const auto second = rest.take();
      diagnostics.error(second ? second->place : Place{}, "a second document begins; a file holds one");
    }
    return root;
  } catch (const Refusal& refusal) {
    diagnostics.error(refusal.place, refusal.message);
  } catch (const YAML::Exception& error) {
    diagnostics.error(place_of(error.mark), "not valid YAML: " + one_line(error.msg));
  } catch (const std::exception& error) {
    diagnostics.error({}, "not valid YAML: " + one_line(error.what()));
  }
  return std::nullopt;
}

}  // namespace troupe::cluster
