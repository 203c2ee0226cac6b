#pragma once

#include <capnp/any.h>
#include <capnp/schema.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/fabric/message.h"

namespace troupe::fabric {

// Checks a received segment against its schema, so that no accessor of it throws later: pointers stay inside the
// segment, texts are terminated, lists have elements of the declared size, structs nest within the limit, and no
// cycle or amplification exceeds the traversal limit. Pointers of inactive union members are not followed.
// Compiled once from the schema; immutable and thread-safe afterwards.
class Validator {
 public:
  explicit Validator(capnp::Schema schema);

  // Errors: kCorruptData.
  Result<void> check(kj::ArrayPtr<const capnp::word> segment) const;

 private:
  enum class Kind {
    kText,
    kData,
    kStruct,
    kVoidList,
    kBitList,
    kByteList,
    kTwoByteList,
    kFourByteList,
    kEightByteList,
    kPointerList,
    kStructList
  };

  // What a pointer leads to. `inner` is a layout for kStruct and kStructList, the elements' shape for kPointerList.
  struct Shape {
    Kind kind = Kind::kData;
    std::uint32_t inner = 0;
  };
  // A pointer in a union exists only while the discriminants say so.
  struct Condition {
    std::uint32_t byte_offset = 0;  // of the 16-bit discriminant in the data section
    std::uint16_t value = 0;
  };
  struct Field {
    std::uint32_t slot = 0;  // index into the pointer section
    std::vector<Condition> conditions;
    Shape shape;
  };
  using Layout = std::vector<Field>;

  std::uint32_t add_layout(capnp::StructSchema schema);
  void add_fields(capnp::StructSchema schema, std::uint32_t layout, const std::vector<Condition>& outer);
  Shape add_shape(capnp::Type type);
  void check_struct(capnp::AnyStruct::Reader reader, std::uint32_t layout) const;
  void check_pointer(capnp::AnyPointer::Reader pointer, const Shape& shape) const;

  std::vector<Layout> layouts_;  // the root's first
  std::vector<Shape> element_shapes_;
  std::unordered_map<std::uint64_t, std::uint32_t> layout_of_;  // by schema id: recursive types end here
};

}  // namespace troupe::fabric
