// The torch-free native module: reading of skeleton files, and the facts of this build.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_skeleton_file(py::module_& module);  // skeleton_file_binding.cpp

namespace {

py::dict build_info() {
  const auto words = [](const char* text) { return py::str(text).attr("split")(); };
  py::dict info;
  info["version"] = IKEM_VERSION;
  info["torch_version"] = IKEM_TORCH_VERSION;
  info["torch_target_version"] = "2.10";
  info["compiler"] = IKEM_COMPILER;
  info["simd_levels"] = words(IKEM_SIMD_LEVELS);
  info["cuda_compiler"] = IKEM_CUDA_COMPILER;
  info["cuda_architectures"] = words(IKEM_CUDA_ARCHITECTURES);
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Skeleton files and build facts; independent of torch.";
  module.def("build_info", &build_info,
             "What this build was made from: versions, compilers, SIMD levels and CUDA architectures.");
  bind_skeleton_file(module);
}
