#pragma once

#include <capnp/message.h>
#include <caf/allowed_unsafe_message_type.hpp>

#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/fabric/buffer.h"

namespace troupe::fabric {

// A slice of host memory that travels beside a message without being copied into it. Cheap to copy: copies share
// the memory. Thread-safety: reading is free; only the holder who allocated it may write, before it is sent.
class Attachment {
 public:
  Attachment() = default;

  static Attachment allocate(std::size_t bytes);  // 64-byte aligned, pooled, not zeroed
  static Attachment copy_of(std::span<const std::byte> bytes);
  // Memory of somebody else, such as a mapped file; `owner` lives until the last copy is gone.
  static Attachment wrap(std::shared_ptr<const void> owner, std::span<const std::byte> bytes);
  // Part of a buffer: how a received frame hands out its attachments.
  static Attachment slice(Buffer buffer, std::size_t offset, std::size_t bytes);

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // REQUIRES: made by allocate() or copy_of(), and not sent yet.
  std::byte* mutable_data() { return const_cast<std::byte*>(data_); }

 private:
  Buffer buffer_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// What every Message<T> shares with its copies: one flat Cap'n Proto segment and the attachments. Immutable.
class MessageData {
 public:
  MessageData(Buffer buffer, const capnp::word* words, std::size_t word_count, std::vector<Attachment> attachments)
      : buffer_(std::move(buffer)), words_(words), word_count_(word_count), attachments_(std::move(attachments)) {}

  std::span<const std::byte> segment() const {
    return {reinterpret_cast<const std::byte*>(words_), word_count_ * sizeof(capnp::word)};
  }
  kj::ArrayPtr<const capnp::word> words() const { return kj::arrayPtr(words_, word_count_); }
  std::span<const Attachment> attachments() const { return attachments_; }
  std::uint64_t bytes() const;  // segment and attachments

 private:
  Buffer buffer_;
  const capnp::word* words_;
  std::size_t word_count_;
  std::vector<Attachment> attachments_;
};
using MessageDataPtr = std::shared_ptr<const MessageData>;

// What a reader may do with a message of so many words: visit each word a few times, and not recurse for ever.
capnp::ReaderOptions reader_options(std::size_t word_count);

// A bounded view of one message, for one thread; make a new one for each use, because its traversal limit counts
// down. Keeps the message's memory alive. Accessors throw kj::Exception on a message that was not validated.
template <class T>
class MessageReader {
 public:
  explicit MessageReader(MessageDataPtr data)
      : data_(std::move(data)),
        segment_(data_->words()),
        reader_(kj::arrayPtr(&segment_, 1), reader_options(segment_.size())),
        root_(reader_.template getRoot<T>()) {}
  MessageReader(const MessageReader&) = delete;  // the reader points into itself
  MessageReader& operator=(const MessageReader&) = delete;

  typename T::Reader root() const& { return root_; }
  typename T::Reader root() const&& = delete;  // would dangle: keep the MessageReader

  // Generated readers are small values without operator->; this gives `reader->getTokens()`.
  const typename T::Reader* operator->() const { return &root_; }
  const typename T::Reader& operator*() const { return root_; }

 private:
  MessageDataPtr data_;
  kj::ArrayPtr<const capnp::word> segment_;
  capnp::SegmentArrayMessageReader reader_;
  typename T::Reader root_;
};

// An immutable message of schema struct T: the only thing that actors exchange. Copies share the memory; sharing
// between threads is free. A default-constructed message is empty and must not be read or sent.
template <class T>
class Message {
 public:
  Message() = default;
  // REQUIRES: `data` holds a T (it was built as one, or MessageTypes validated it).
  explicit Message(MessageDataPtr data) : data_(std::move(data)) {}

  explicit operator bool() const { return data_ != nullptr; }
  MessageReader<T> read() const { return MessageReader<T>(data_); }
  std::span<const Attachment> attachments() const { return data_->attachments(); }
  const MessageDataPtr& data() const { return data_; }

 private:
  MessageDataPtr data_;
};

// Builds one flat segment in pooled memory; falls back to further segments when its guess was too small, and
// then copies once in finish().
class SegmentBuilder final : public capnp::MessageBuilder {
 public:
  explicit SegmentBuilder(std::size_t first_words) : first_words_(first_words) {}
  ~SegmentBuilder() noexcept override = default;

  kj::ArrayPtr<capnp::word> allocateSegment(capnp::uint minimum_words) override;
  bool flat() const { return segments_.size() <= 1; }
  const Buffer& first_segment() const { return segments_.front(); }

 private:
  std::size_t first_words_;
  std::vector<Buffer> segments_;
};

template <class T>
class MessageBuilder {
 public:
  MessageBuilder() : builder_(std::in_place, size_hint().load(std::memory_order_relaxed)) {}
  MessageBuilder(const MessageBuilder&) = delete;
  MessageBuilder& operator=(const MessageBuilder&) = delete;

  typename T::Builder root() { return builder_->template getRoot<T>(); }

  // Returns the index that a schema::Tensor of this message names.
  std::uint16_t attach(Attachment attachment) {
    assert(attachments_.size() < UINT16_MAX);
    attachments_.push_back(std::move(attachment));
    return static_cast<std::uint16_t>(attachments_.size() - 1);
  }

  Message<T> finish() && {
    root();  // an untouched message still has a root
    if (!builder_->flat()) {
      auto words = builder_->sizeInWords();
      std::optional<SegmentBuilder> flat(std::in_place, words + 1);  // the root pointer may be counted apart
      flat->setRoot(builder_->template getRoot<T>().asReader());
      builder_.reset();
      return take(*flat);
    }
    return take(*builder_);
  }

 private:
  static constexpr std::size_t kFirstWords = 64;
  static constexpr std::size_t kLargestHintWords = 1 << 17;

  // How large the last message of this type became: the next one is probably alike.
  static std::atomic<std::size_t>& size_hint() {
    static std::atomic<std::size_t> hint{kFirstWords};
    return hint;
  }

  Message<T> take(SegmentBuilder& builder) {
    auto segments = builder.getSegmentsForOutput();
    assert(segments.size() == 1);
    auto used = segments[0].size();
    auto hint = std::min(std::max(kFirstWords, used + used / 4), kLargestHintWords);
    if (size_hint().load(std::memory_order_relaxed) != hint) size_hint().store(hint, std::memory_order_relaxed);
    return Message<T>(std::make_shared<const MessageData>(builder.first_segment(), segments[0].begin(), used,
                                                          std::move(attachments_)));
  }

  std::optional<SegmentBuilder> builder_;
  std::vector<Attachment> attachments_;
};

// make_message<schema::Cancel>([&](auto cancel) { cancel.setRequest(7); })
template <class T, class Fill>
Message<T> make_message(Fill&& fill) {
  MessageBuilder<T> builder;
  std::forward<Fill>(fill)(builder.root());
  return std::move(builder).finish();
}

}  // namespace troupe::fabric

// Messages cross actors by reference; CAF never serialises them.
template <class T>
struct caf::allowed_unsafe_message_type<troupe::fabric::Message<T>> : std::true_type {};
