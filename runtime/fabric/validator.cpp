#include "runtime/fabric/validator.h"

#include <cstring>

namespace troupe::fabric {

using capnp::AnyPointer;
using capnp::AnyStruct;
using capnp::List;

Validator::Validator(capnp::Schema schema) { add_layout(schema.asStruct()); }

std::uint32_t Validator::add_layout(capnp::StructSchema schema) {
  auto id = schema.getProto().getId();
  auto [known, is_new] = layout_of_.emplace(id, static_cast<std::uint32_t>(layouts_.size()));
  auto index = known->second;
  if (!is_new) return index;
  layouts_.emplace_back();
  add_fields(schema, index, {});
  return index;
}

void Validator::add_fields(capnp::StructSchema schema, std::uint32_t layout, const std::vector<Condition>& outer) {
  auto discriminant_offset = schema.getProto().getStruct().getDiscriminantOffset();
  for (auto field : schema.getFields()) {
    auto proto = field.getProto();
    auto conditions = outer;
    if (proto.getDiscriminantValue() != capnp::schema::Field::NO_DISCRIMINANT) {
      conditions.push_back({discriminant_offset * 2, proto.getDiscriminantValue()});
    }
    auto type = field.getType();
    if (proto.isGroup()) {
      add_fields(type.asStruct(), layout, conditions);  // a group lives in its parent's sections
    } else if (type.isText() || type.isData() || type.isList() || type.isStruct()) {
      auto shape = add_shape(type);  // may grow layouts_
      layouts_[layout].push_back({proto.getSlot().getOffset(), std::move(conditions), shape});
    } else {
      KJ_REQUIRE(!type.isAnyPointer() && !type.isInterface(), "messages of actors have no untyped pointers", proto);
    }
  }
}

Validator::Shape Validator::add_shape(capnp::Type type) {
  using Which = capnp::schema::Type::Which;
  if (type.isText()) return {Kind::kText};
  if (type.isData()) return {Kind::kData};
  if (type.isStruct()) return {Kind::kStruct, add_layout(type.asStruct())};
  auto element = type.asList().getElementType();
  switch (element.which()) {
    case Which::VOID: return {Kind::kVoidList};
    case Which::BOOL: return {Kind::kBitList};
    case Which::INT8:
    case Which::UINT8: return {Kind::kByteList};
    case Which::INT16:
    case Which::UINT16:
    case Which::ENUM: return {Kind::kTwoByteList};
    case Which::INT32:
    case Which::UINT32:
    case Which::FLOAT32: return {Kind::kFourByteList};
    case Which::INT64:
    case Which::UINT64:
    case Which::FLOAT64: return {Kind::kEightByteList};
    case Which::STRUCT: return {Kind::kStructList, add_layout(element.asStruct())};
    default: break;
  }
  auto shape = add_shape(element);
  element_shapes_.push_back(shape);
  return {Kind::kPointerList, static_cast<std::uint32_t>(element_shapes_.size() - 1)};
}

Result<void> Validator::check(kj::ArrayPtr<const capnp::word> segment) const {
  try {
    auto options = reader_options(segment.size());
    // One visit goes over each word once; pointers that share or repeat memory do not belong into a message.
    constexpr std::uint64_t kVisits = 2;
    constexpr std::uint64_t kSmallWords = 128;
    options.traversalLimitInWords = kVisits * segment.size() + kSmallWords;
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(&segment, 1), options);
    check_struct(reader.getRoot<AnyStruct>(), 0);
  } catch (const kj::Exception& exception) {
    return corrupt_data(std::string("Cap'n Proto: ") + exception.getDescription().cStr());
  }
  return {};
}

void Validator::check_struct(AnyStruct::Reader reader, std::uint32_t layout) const {
  auto data = reader.getDataSection();
  auto pointers = reader.getPointerSection();
  for (const auto& field : layouts_[layout]) {
    if (field.slot >= pointers.size()) continue;  // written by an older schema: the default is read instead
    bool active = true;
    for (const auto& condition : field.conditions) {
      std::uint16_t discriminant = 0;  // also when an older schema had no union yet
      if (condition.byte_offset + 2 <= data.size()) std::memcpy(&discriminant, data.begin() + condition.byte_offset, 2);
      active = active && discriminant == condition.value;
    }
    if (active) check_pointer(pointers[field.slot], field.shape);
  }
}

void Validator::check_pointer(AnyPointer::Reader pointer, const Shape& shape) const {
  if (pointer.isNull()) return;
  switch (shape.kind) {
    case Kind::kText: pointer.getAs<capnp::Text>(); break;
    case Kind::kData: pointer.getAs<capnp::Data>(); break;
    case Kind::kStruct: check_struct(pointer.getAs<AnyStruct>(), shape.inner); break;
    case Kind::kVoidList: pointer.getAs<List<capnp::Void>>(); break;
    case Kind::kBitList: pointer.getAs<List<bool>>(); break;
    case Kind::kByteList: pointer.getAs<List<std::uint8_t>>(); break;
    case Kind::kTwoByteList: pointer.getAs<List<std::uint16_t>>(); break;
    case Kind::kFourByteList: pointer.getAs<List<std::uint32_t>>(); break;
    case Kind::kEightByteList: pointer.getAs<List<std::uint64_t>>(); break;
    case Kind::kPointerList: {
      auto list = pointer.getAs<capnp::AnyList>();
      KJ_REQUIRE(list.getElementSize() == capnp::ElementSize::POINTER, "a list of pointers was expected");
      for (auto element : list.as<List<AnyPointer>>()) check_pointer(element, element_shapes_[shape.inner]);
      break;
    }
    case Kind::kStructList: {
      auto list = pointer.getAs<capnp::AnyList>();
      KJ_REQUIRE(list.getElementSize() != capnp::ElementSize::BIT, "a list of structs was expected");
      for (auto element : list.as<List<AnyStruct>>()) check_struct(element, shape.inner);
      break;
    }
  }
}

}  // namespace troupe::fabric
