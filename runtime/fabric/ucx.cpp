#include "runtime/fabric/ucx.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <ucs/debug/log_def.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/base/log.h"

namespace troupe::fabric {
namespace {

struct Setting {
  const char* name;
  const char* value;
  bool is_for_shared_memory = false;
};

// What the defaults of UCX 1.13 get wrong for us. They go through the environment, because ucp_config_modify()
// does not reach all options of transports; a user's own setting stays.
constexpr Setting kSettings[] = {
    // A peer that goes in the middle of a transfer without copies ends this process as well: UCX 1.13 completes such
    // a send twice when it fails, and asserts on an acknowledgement that comes after a failed send. So there are no
    // such transfers, and no rendezvous, which is made of them; large bodies go in pieces (pieces.h).
    {"UCX_ZCOPY_THRESH", "inf"},
    {"UCX_RNDV_THRESH", "inf"},
    {"UCX_TCP_PUT_ENABLE", "n"},
    {"UCX_TCP_TX_SEG_SIZE", "64K"},          // larger pieces make fewer system calls, and more that is cut in two
    {"UCX_TCP_RX_SEG_SIZE", "64K"},          // must not be smaller than what peers send
    {"UCX_MAX_EAGER_LANES", "1"},            // no striping over unlike devices, such as loopback and eth0
    {"UCX_TCP_CM_REUSEADDR", "y"},           // a node that comes back listens on its port at once
    {"UCX_SYSV_ERROR_HANDLING", "y", true},  // or error handling turns shared memory off
    {"UCX_POSIX_ERROR_HANDLING", "y", true},
    {"UCX_POSIX_USE_PROC_LINK", "y", true},  // segments are unlinked at birth: a killed process leaves none
    // Rendezvous would get a TCP lane beside shared memory, and every progress call would poll its sockets.
    {"UCX_MAX_RNDV_LANES", "0", true},
    {"UCX_SYSV_FIFO_SIZE", "256", true},  // a full queue sends one message per progress call
    {"UCX_POSIX_FIFO_SIZE", "256", true},
};

// While a worker is destroyed UCX warns of what a forced close left behind, as if it were a leak.
thread_local bool is_closing = false;

// UCX writes to standard output by default, where a command's own output goes.
ucs_log_func_rc_t log_ucx(const char*, unsigned, const char*, ucs_log_level_t level,
                          const ucs_log_component_config_t* component, const char* format, va_list arguments) {
  if (level > component->log_level) return UCS_LOG_FUNC_RC_STOP;
  char text[512];
  std::vsnprintf(text, sizeof(text), format, arguments);
  auto severity = level <= UCS_LOG_LEVEL_ERROR ? spdlog::level::err : spdlog::level::warn;
  spdlog::log(is_closing ? spdlog::level::debug : severity, "UCX: {}", text);
  return UCS_LOG_FUNC_RC_STOP;
}

// Has the settings in the environment while a worker is made; children of this process and other workers in it, of
// other transports, inherit none of them. One worker is made at a time.
class ScopedSettings {
 public:
  explicit ScopedSettings(const std::string& transports) : lock_(mutex()) {
    bool shared_memory = transports.find_first_not_of("tcp,") != std::string::npos;
    for (auto setting : kSettings) {
      // UCX warns of settings for transports that it does not load.
      if ((setting.is_for_shared_memory && !shared_memory) || std::getenv(setting.name)) continue;
      setenv(setting.name, setting.value, 0);
      set_.push_back(setting.name);
    }
    static bool logs = false;
    if (!std::exchange(logs, true)) ucs_log_push_handler(log_ucx);
  }
  ~ScopedSettings() {
    for (const auto* name : set_) unsetenv(name);
  }
  ScopedSettings(const ScopedSettings&) = delete;
  ScopedSettings& operator=(const ScopedSettings&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }

  std::lock_guard<std::mutex> lock_;
  std::vector<const char*> set_;
};

}  // namespace

Result<SocketAddress> SocketAddress::parse(const std::string& endpoint, bool to_listen) {
  auto colon = endpoint.rfind(':');
  if (colon == std::string::npos || colon + 1 == endpoint.size()) {
    return invalid_argument("'" + printable(endpoint) + "' is not host:port");
  }
  auto host = endpoint.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  auto port = endpoint.substr(colon + 1);
  if (int status = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); status != 0) {
    return invalid_argument("cannot resolve '" + printable(endpoint) + "': " + gai_strerror(status));
  }
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

std::string SocketAddress::text() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET6) {
    auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
    return std::string("[") + text + "]:" + std::to_string(ntohs(v6->sin6_port));
  }
  auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
  inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
  return std::string(text) + ":" + std::to_string(ntohs(v4->sin_port));
}

Result<std::unique_ptr<UcxWorker>> UcxWorker::create(const std::string& listen, const std::string& transports,
                                                     Callbacks callbacks) {
  std::unique_ptr<UcxWorker> worker(new UcxWorker);
  TROUPE_RETURN_IF_ERROR(worker->open(listen, transports, callbacks));
  return worker;
}

Result<void> UcxWorker::open(const std::string& listen, const std::string& transports, const Callbacks& callbacks) {
  TROUPE_ASSIGN_OR_RETURN(auto address, SocketAddress::parse(listen, true));

  ScopedSettings settings(transports);
  ucp_config_t* config = nullptr;
  if (auto status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
    return internal_error(std::string("cannot read UCX's configuration: ") + ucs_status_string(status));
  }
  std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> release_config(config, ucp_config_release);
  if (ucp_config_modify(config, "TLS", transports.empty() ? "tcp" : transports.c_str()) != UCS_OK) {
    return invalid_argument("UCX does not take transports '" + printable(transports) + "'", "transports");
  }

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = "troupe";
  if (auto status = ucp_init(&params, config, &context_); status != UCS_OK) {
    return unsupported("cannot start UCX with transports '" + printable(transports) +
                       "': " + ucs_status_string(status));
  }

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // created here, then driven by the fabric's thread
  if (auto status = ucp_worker_create(context_, &worker_params, &worker_); status != UCS_OK) {
    return unsupported(std::string("cannot create a UCX worker: ") + ucs_status_string(status));
  }
  if (auto status = ucp_worker_get_efd(worker_, &event_fd_); status != UCS_OK) {
    return unsupported(std::string("UCX transports without wake-up: ") + ucs_status_string(status));
  }
  ucp_worker_attr_t worker_attributes{};
  worker_attributes.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
  ucp_worker_query(worker_, &worker_attributes);
  fragment_bytes_ = worker_attributes.max_am_header;  // what fits in one fragment of every transport

  TROUPE_RETURN_IF_ERROR(receive(kFrames, callbacks.on_frame, callbacks.argument));

  ucp_listener_params_t listener{};
  listener.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  listener.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
  listener.sockaddr.addrlen = address.length;
  listener.conn_handler = {callbacks.on_connection, callbacks.argument};
  if (auto status = ucp_listener_create(worker_, &listener, &listener_); status != UCS_OK) {
    return unavailable("cannot listen on " + printable(listen) + ": " + ucs_status_string(status) +
                       "; choose another port or stop who listens there");
  }
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  if (auto status = ucp_listener_query(listener_, &attributes); status != UCS_OK) {
    return internal_error(std::string("cannot query the UCX listener: ") + ucs_status_string(status));
  }
  address.storage = attributes.sockaddr;
  endpoint_ = address.text();
  return {};
}

Result<void> UcxWorker::receive(std::uint64_t number, ucp_am_recv_callback_t callback, void* argument) {
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = static_cast<unsigned>(number);
  handler.cb = callback;
  handler.arg = argument;
  if (auto status = ucp_worker_set_am_recv_handler(worker_, &handler); status != UCS_OK) {
    return internal_error(std::string("UCX takes no active message handler: ") + ucs_status_string(status));
  }
  return {};
}

void UcxWorker::ignore(std::uint64_t number) {
  // Fails only for want of memory, which a number that had a callback does not need.
  static_cast<void>(receive(number, nullptr, nullptr));
}

UcxWorker::~UcxWorker() {
  is_closing = true;
  if (listener_) ucp_listener_destroy(listener_);
  if (worker_) ucp_worker_destroy(worker_);
  if (context_) ucp_cleanup(context_);
  is_closing = false;
}

}  // namespace troupe::fabric
