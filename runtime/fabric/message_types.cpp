#include "runtime/fabric/message_types.h"

#include <capnp/serialize.h>

#include "runtime/base/fnv1a.h"
#include "runtime/fabric/node_id.h"
#include "schema/activation.capnp.h"
#include "schema/cluster.capnp.h"
#include "schema/draft.capnp.h"
#include "schema/error.capnp.h"
#include "schema/expert.capnp.h"
#include "schema/generate.capnp.h"
#include "schema/step.capnp.h"

namespace troupe::fabric {
namespace {

// The canonical bytes of each schema node that `schema` refers to, itself included.
void hash_schemas(capnp::Schema schema, std::map<std::uint64_t, std::uint64_t>& hashes);

void hash_type(capnp::Type type, std::map<std::uint64_t, std::uint64_t>& hashes) {
  while (type.isList()) type = type.asList().getElementType();
  if (type.isStruct()) hash_schemas(type.asStruct(), hashes);
  if (type.isEnum()) hash_schemas(type.asEnum(), hashes);
}

void hash_schemas(capnp::Schema schema, std::map<std::uint64_t, std::uint64_t>& hashes) {
  auto proto = schema.getProto();
  if (hashes.contains(proto.getId())) return;
  auto words = capnp::canonicalize(proto);
  auto bytes = words.asBytes();
  hashes[proto.getId()] = fnv1a({reinterpret_cast<const char*>(bytes.begin()), bytes.size()});
  if (!proto.isStruct()) return;
  for (auto field : schema.asStruct().getFields()) hash_type(field.getType(), hashes);
}

}  // namespace

const MessageTypes::Type* MessageTypes::find(std::uint64_t id) const {
  auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second.get();
}

const MessageTypes::Type* MessageTypes::find(const std::type_info& message) const {
  auto found = by_message_.find(message);
  return found == by_message_.end() ? nullptr : found->second.get();
}

std::uint64_t MessageTypes::fingerprint() const {
  std::uint64_t hash = fnv1a("troupe");
  for (const auto& [id, schema_hash] : schema_hashes_) {
    hash = fnv1a({reinterpret_cast<const char*>(&schema_hash), sizeof(schema_hash)}, hash);
  }
  return hash;
}

MessageTypes& MessageTypes::add(const std::type_info& message, capnp::Schema schema, Type type) {
  auto shared = std::make_shared<const Type>(std::move(type));
  by_id_[shared->id] = shared;
  by_message_[message] = shared;
  hash_schemas(schema, schema_hashes_);
  return *this;
}

MessageTypes schema_message_types() {
  MessageTypes types;
  types.add<schema::ErrorInfo>().add<schema::Outcome>();
  types.add<schema::Generate>().add<schema::Cancel>().add<schema::Deltas>();
  types.add<schema::Step>().add<schema::StepResult>().add<schema::Activation>();
  types.add<schema::DraftRequest>().add<schema::DraftReply>();
  types.add<schema::Dispatch>().add<schema::Combine>();
  types.add<schema::Join>().add<schema::Spawn>().add<schema::Spawned>().add<schema::LoadProgress>();
  types.add<schema::Assemble>().add<schema::Lost>().add<schema::Drain>();
  types.add<schema::StatsRequest>().add<schema::Stats>();
  types.add<schema::ClusterStatusRequest>().add<schema::ClusterStatus>();
  return types;
}

}  // namespace troupe::fabric
