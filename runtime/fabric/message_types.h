#pragma once

#include <capnp/schema.h>
#include <caf/mailbox_element.hpp>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <typeindex>
#include <unordered_map>

#include "runtime/base/result.h"
#include "runtime/fabric/message.h"
#include "runtime/fabric/validator.h"

namespace troupe::fabric {

// The schema types that a fabric carries: from the wire (type id, bytes) to an actor's mailbox and back. Filled by
// whoever starts a Fabric, and not changed afterwards; then safe to read from all threads.
class MessageTypes {
 public:
  struct Type {
    std::uint64_t id = 0;  // capnp::typeId<T>()
    std::string name;
    std::shared_ptr<const Validator> validator;
    caf::mailbox_element_ptr (*deliverable)(caf::strong_actor_ptr sender, caf::message_id id, MessageDataPtr data);
    const MessageDataPtr& (*data_of)(const void* message);
  };

  template <class T>
  MessageTypes& add() {
    auto schema = capnp::Schema::from<T>();
    return add(typeid(Message<T>), schema,
               Type{schema.getProto().getId(), schema.getProto().getDisplayName().cStr(),
                    std::make_shared<const Validator>(schema),
                    [](caf::strong_actor_ptr sender, caf::message_id id, MessageDataPtr data) {
                      return caf::make_mailbox_element(std::move(sender), id, {}, Message<T>(std::move(data)));
                    },
                    [](const void* message) -> const MessageDataPtr& {
                      return static_cast<const Message<T>*>(message)->data();
                    }});
  }

  const Type* find(std::uint64_t id) const;               // null if not added
  const Type* find(const std::type_info& message) const;  // of a Message<T>

  // The same in two processes that mean the same by every type they exchange; compared in the handshake.
  std::uint64_t fingerprint() const;

 private:
  MessageTypes& add(const std::type_info& message, capnp::Schema schema, Type type);

  std::unordered_map<std::uint64_t, std::shared_ptr<const Type>> by_id_;
  std::unordered_map<std::type_index, std::shared_ptr<const Type>> by_message_;
  std::map<std::uint64_t, std::uint64_t> schema_hashes_;  // of the types and of all they refer to, by type id
};

// Every struct of schema/ that actors exchange.
MessageTypes schema_message_types();

}  // namespace troupe::fabric
