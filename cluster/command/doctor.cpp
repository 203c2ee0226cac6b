#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cluster/command/verbs.h"
#include "cluster/plan.h"
#include "kernels/cuda/gpu_list.h"
#include "kernels/select.h"
#include "runtime/collective/nccl_library.h"

namespace troupe::cluster {
namespace {

struct DoctorOptions {
  bool needs_gpu = false;
};

// 3 where a GPU is asked for and there is none: told apart from a mistake on the command line and from a failure.
constexpr int kNoGpu = 3;

int run_doctor(const DoctorOptions& options) {
  const Machine machine = this_machine(true);
  std::string cores = std::to_string(machine.cores.front());
  for (std::size_t i = 1; i < machine.cores.size(); ++i) cores += "," + std::to_string(machine.cores[i]);
  fmt::print("{} core(s): {}\n", machine.cores.size(), cores);

  const auto kernels = kernels::make_cpu_kernels({});
  fmt::print("kernels on cpu:N: {}\n", kernels.ok() ? (*kernels)->name() : kernels.error().message);

  for (std::size_t index = 0; index < machine.gpus.size(); ++index) {
    const kernels::GpuInfo& gpu = machine.gpus[index];
    fmt::print("cuda:{}: {}, {:.1f} GB ({:.1f} GB free), compute capability {}.{}", index, gpu.name,
               static_cast<double>(gpu.memory_bytes) * 1e-9, static_cast<double>(gpu.free_bytes) * 1e-9,
               gpu.compute_capability / 10, gpu.compute_capability % 10);
    const auto usable = kernels::make_kernels({.gpu = static_cast<std::uint32_t>(index)});
    fmt::print(": {}\n", usable.ok() ? "kernels " + std::string((*usable)->name()) : usable.error().message);
  }
  const auto nccl = collective::open_nccl();
  if (nccl.ok()) {
    fmt::print("NCCL: {}\n", collective::nccl_version_text(nccl->version));
  } else {
    fmt::print("no NCCL, GPUs of a stage exchange through the host: {}\n", nccl.error().message);
  }
  if (!machine.gpus.empty()) return 0;
  fmt::print("no GPU: {}\n", machine.why_no_gpus);
  return options.needs_gpu ? kNoGpu : 0;
}

}  // namespace

VerbRun prepare_doctor(CLI::App& app) {
  auto options = std::make_shared<DoctorOptions>();
  app.add_flag("--gpu", options->needs_gpu, "exit with 3 if there is no GPU");
  app.footer(
      "The cores and GPUs that this process may use, which kernels run on them, the NCCL by which several GPUs work\n"
      "on one stage, and why not.\n"
      "TROUPE_GPU=emulated offers GPUs that are emulated on the CPU: slow, for trying topologies.\n\n"
      "Exit codes: 0 shown, 3 no GPU (with --gpu).");
  return [options] { return run_doctor(*options); };
}

}  // namespace troupe::cluster
