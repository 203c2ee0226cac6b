// Our declarations of NCCL's interface against its own header; and the library, where there is one.

#include <nccl.h>

#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <type_traits>

#include "runtime/collective/nccl_library.h"

namespace troupe::collective {
namespace {

// A type of ours, or of C's, for one of NCCL's: what a call passes is the same.
template <class T>
struct Ours {
  using type = T;
};
template <>
struct Ours<ncclResult_t> {
  using type = NcclStatus;
};
template <>
struct Ours<ncclResult_t*> {
  using type = NcclStatus*;
};
template <>
struct Ours<ncclComm_t> {
  using type = NcclComm*;
};
template <>
struct Ours<ncclComm_t*> {
  using type = NcclComm**;
};
template <>
struct Ours<ncclUniqueId> {
  using type = NcclUniqueId;
};
template <>
struct Ours<ncclUniqueId*> {
  using type = NcclUniqueId*;
};
template <>
struct Ours<ncclConfig_t*> {
  using type = NcclConfig*;
};
template <>
struct Ours<ncclDataType_t> {
  using type = int;
};
template <>
struct Ours<ncclRedOp_t> {
  using type = int;
};
template <>
struct Ours<cudaStream_t> {
  using type = void*;
};
template <class Returned, class... Params>
struct Ours<Returned (*)(Params...)> {
  using type = typename Ours<Returned>::type (*)(typename Ours<Params>::type...);
};

template <class Theirs, class Function>
constexpr bool kSame = std::is_same_v<typename Ours<Theirs>::type, Function>;

using F = NcclFunctions;
static_assert(kSame<decltype(&ncclGetVersion), decltype(F::get_version)>);
static_assert(kSame<decltype(&ncclGetUniqueId), decltype(F::get_unique_id)>);
static_assert(kSame<decltype(&ncclCommInitRankConfig), decltype(F::comm_init_rank_config)>);
static_assert(kSame<decltype(&ncclCommAbort), decltype(F::comm_abort)>);
static_assert(kSame<decltype(&ncclCommGetAsyncError), decltype(F::comm_get_async_error)>);
static_assert(kSame<decltype(&ncclGetErrorString), decltype(F::get_error_string)>);
static_assert(kSame<decltype(&ncclGetLastError), decltype(F::get_last_error)>);
static_assert(kSame<decltype(&ncclGroupStart), decltype(F::group_start)>);
static_assert(kSame<decltype(&ncclGroupEnd), decltype(F::group_end)>);
static_assert(kSame<decltype(&ncclSend), decltype(F::send)>);
static_assert(kSame<decltype(&ncclRecv), decltype(F::recv)>);
static_assert(kSame<decltype(&ncclAllReduce), decltype(F::all_reduce)>);
static_assert(kSame<decltype(&ncclAllGather), decltype(F::all_gather)>);

static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId) && sizeof(NcclStatus) == sizeof(ncclResult_t));
static_assert(static_cast<int>(NcclStatus::kRemoteError) == ncclRemoteError);
static_assert(static_cast<int>(NcclStatus::kInProgress) == ncclInProgress);
static_assert(static_cast<int>(NcclStatus::kSystemError) == ncclSystemError);
static_assert(static_cast<int>(NcclStatus::kUnhandledCudaError) == ncclUnhandledCudaError);
static_assert(kNcclFloat32 == ncclFloat32 && kNcclSum == ncclSum);
static_assert(offsetof(NcclConfig, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(sizeof(NcclConfig) <= sizeof(ncclConfig_t));

BOOST_AUTO_TEST_SUITE(nccl_interface)

BOOST_AUTO_TEST_CASE(a_config_begins_as_the_librarys_does) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  BOOST_TEST(NcclConfig().magic == theirs.magic);
}

BOOST_AUTO_TEST_CASE(the_library_is_found_or_the_error_says_what_to_do) {
  const auto nccl = open_nccl();
  if (nccl.ok()) {
    BOOST_TEST(nccl->version >= 21800);
    BOOST_TEST(nccl->functions.get_error_string(NcclStatus::kInvalidUsage) != nullptr);
  } else {
    BOOST_TEST(nccl.error().message.find("install") != std::string::npos);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::collective
