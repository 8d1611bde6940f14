// Compiled twice: into the operations library, where it defines the operations and their CPU side, and, with
// IKEM_CUDA_OPERATIONS, into the CUDA library. Arguments are checked with friendly messages in
// ikem_ext/modalities.py; the checks here are those without which a kernel could read astray.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "common/check.h"
#include "common/tensor.h"
#include "modalities/kernel.h"
#ifdef IKEM_CUDA_OPERATIONS
#include "common/cuda_stream.h"
#endif

namespace ikem::modalities {
namespace {

using Integers = std::vector<int64_t>;

Skeleton make_skeleton(const Integers& parents, const Integers& partners, const Integers& torso) {
  const auto joints = static_cast<int64_t>(parents.size());
  check_value(joints >= 1 && joints <= MAX_JOINTS, "layout: expected 1 to ", MAX_JOINTS, " joints, got ", joints);
  check_value(partners.size() == parents.size() && torso.size() == 3, "layout: inconsistent sizes");
  for (const Integers* indices : {&parents, &partners, &torso}) {
    for (const int64_t joint : *indices) {
      check_value(joint >= 0 && joint < joints, "layout: joint ", joint, " is not one of ", joints);
    }
  }
  Skeleton skeleton{};
  skeleton.num_joints = static_cast<int32_t>(joints);
  skeleton.spine = static_cast<int32_t>(torso[0]);
  skeleton.left = static_cast<int32_t>(torso[1]);
  skeleton.right = static_cast<int32_t>(torso[2]);
  for (int64_t joint = 0; joint < joints; ++joint) {
    skeleton.parents[joint] = static_cast<int16_t>(parents[joint]);
    skeleton.partners[joint] = static_cast<int16_t>(partners[joint]);
    if (parents[joint] == joint) {
      skeleton.root = static_cast<int32_t>(joint);
    }
  }
  return skeleton;
}

// The arguments that both operations share, held as long as the problem that points into them.
struct Arguments {
  Problem problem{};
  Tensor clip_index, num_frames, shear, crop_start;

  Arguments(const Tensor& joints, const Tensor& num_frames, const Integers& modalities, const Integers& parents,
            const Integers& partners, const Integers& torso, double reference_frames,
            const std::optional<Tensor>& shear, const std::optional<Tensor>& crop_start, int64_t crop_padding,
            const std::optional<Tensor>& clip_index) {
    check_value(joints.dim() == 5 && joints.size(1) == 3, "joints: expected shape (N, 3, T, V, M)");
    problem.source_clips = joints.size(0);
    problem.clips = problem.source_clips;
    if (clip_index.has_value()) {
      check_value(clip_index->dim() == 1, "clip_index: expected shape (N,)");
      problem.clips = clip_index->size(0);
      check_value(problem.source_clips > 0 || problem.clips == 0, "clip_index: expected none of no clips");
      this->clip_index = hold(joints, *clip_index, "clip_index", ScalarType::Long, problem.clips);
      problem.clip_index = this->clip_index.const_data_ptr<int64_t>();
      check_range(this->clip_index, "clip_index", 0, problem.source_clips - 1, "0 to the last clip of joints");
    }
    problem.frames = joints.size(2);
    problem.bodies = static_cast<int32_t>(joints.size(4));
    problem.skeleton = make_skeleton(parents, partners, torso);
    check_value(joints.size(3) == problem.skeleton.num_joints, "joints: expected V=", problem.skeleton.num_joints,
                " as the layout has, got ", joints.size(3));
    std::fill_n(problem.slots, int{NUM_MODALITIES}, -1);
    for (size_t slot = 0; slot < modalities.size(); ++slot) {
      check_value(modalities[slot] >= 0 && modalities[slot] < NUM_MODALITIES, "modalities: unknown ", modalities[slot]);
      problem.slots[modalities[slot]] = static_cast<int32_t>(slot);
    }
    problem.reference_frames = reference_frames;
    this->num_frames = hold(joints, num_frames, "num_frames", ScalarType::Long, problem.source_clips);
    problem.num_frames = this->num_frames.const_data_ptr<int64_t>();
    check_range(this->num_frames, "num_frames", 1, std::numeric_limits<int64_t>::max(), "at least 1");
    if (shear.has_value()) {
      this->shear = hold(joints, *shear, "shear", compute_type(joints.scalar_type()), 9 * problem.clips);
      problem.shear = this->shear.const_data_ptr();
    }
    if (crop_start.has_value()) {
      check_value(crop_padding >= 0 && crop_padding <= problem.frames, "crop_padding: expected 0 to T=", problem.frames,
                  ", got ", crop_padding);
      this->crop_start = hold(joints, *crop_start, "crop_start", ScalarType::Long, problem.clips);
      problem.crop_start = this->crop_start.const_data_ptr<int64_t>();
      problem.crop_padding = crop_padding;
      check_range(this->crop_start, "crop_start", 0, 2 * crop_padding, "0 to 2 * crop_padding");
    }
  }

 private:
  static Tensor hold(const Tensor& joints, const Tensor& tensor, const char* name, ScalarType type, int64_t values) {
    check_value(tensor.scalar_type() == type && tensor.numel() == values && tensor.device() == joints.device(), name,
                ": expected another dtype, size or device");
    return torch::stable::contiguous(tensor);
  }

  // On the CPU alone: to look at the values on a GPU would make the CPU wait for it.
  static void check_range(const Tensor& tensor, const char* name, int64_t least, int64_t most, const char* range) {
    if (tensor.is_cpu()) {
      const int64_t* values = tensor.const_data_ptr<int64_t>();
      for (int64_t clip = 0; clip < tensor.numel(); ++clip) {
        check_value(least <= values[clip] && values[clip] <= most, name, ": expected ", range, ", got ", values[clip],
                    " for clip ", clip);
      }
    }
  }
};

template <class S>
Clips<const S> clips_of(const Tensor& joints) {
  Clips<const S> clips;
  clips.data = static_cast<const S*>(joints.const_data_ptr());
  copy_strides(joints, clips.strides);
  return clips;
}

template <class S>
DerivedClips<const S> derived_clips_of(const Tensor& grad) {
  DerivedClips<const S> clips;
  clips.data = static_cast<const S*>(grad.const_data_ptr());
  clips.modality_stride = grad.stride(0);
  copy_strides(grad, clips.strides);
  return clips;
}

#ifdef IKEM_CUDA_OPERATIONS

template <class S>
void run_forward(const Problem& problem, const Tensor& joints, S* out) {
  const torch::stable::accelerator::DeviceGuard guard(joints.get_device_index());
  const char* error = cuda::forward(problem, clips_of<S>(joints), out, current_cuda_stream(joints.get_device_index()));
  STD_TORCH_CHECK(error == nullptr, "derive_modalities: ", error);
}

template <class S>
void run_backward(const Problem& problem, const Tensor& joints, const Tensor& grad_out, S* grad_joints) {
  const torch::stable::accelerator::DeviceGuard guard(joints.get_device_index());
  const char* error = cuda::backward(problem, clips_of<S>(joints), derived_clips_of<S>(grad_out), grad_joints,
                                     current_cuda_stream(joints.get_device_index()));
  STD_TORCH_CHECK(error == nullptr, "derive_modalities_backward: ", error);
}

#else

template <class S>
void forward_tasks(const Problem& problem, Clips<const S> joints, S* out, int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(forward<S>(problem, joints, out, first, last))
}

template <class S>
void backward_tasks(const Problem& problem, Clips<const S> joints, DerivedClips<const S> grad_out, S* grad_joints,
                    int64_t first, int64_t last) {
  IKEM_DISPATCH_SIMD(backward<S>(problem, joints, grad_out, grad_joints, first, last))
}

// Fewer tasks than this are not worth waking a thread for.
constexpr int64_t MIN_TASKS_PER_THREAD = 4;

template <class S>
void run_forward(const Problem& problem, const Tensor& joints, S* out) {
  const Clips<const S> clips = clips_of<S>(joints);
  torch::stable::parallel_for(0, problem.clips * cpu_tiles_per_clip(problem), MIN_TASKS_PER_THREAD,
                              [&](int64_t first, int64_t last) { forward_tasks(problem, clips, out, first, last); });
}

template <class S>
void run_backward(const Problem& problem, const Tensor& joints, const Tensor& grad_out, S* grad_joints) {
  const Clips<const S> clips = clips_of<S>(joints);
  const DerivedClips<const S> grads = derived_clips_of<S>(grad_out);
  torch::stable::parallel_for(
      0, problem.clips * cpu_tiles_per_clip(problem), MIN_TASKS_PER_THREAD,
      [&](int64_t first, int64_t last) { backward_tasks(problem, clips, grads, grad_joints, first, last); });
}

#endif

Tensor derive_modalities(const Tensor& joints, const Tensor& num_frames, Integers modalities, Integers parents,
                         Integers partners, Integers torso, double reference_frames, std::optional<Tensor> shear,
                         std::optional<Tensor> crop_start, int64_t crop_padding, std::optional<Tensor> clip_index) {
  const Arguments arguments(joints, num_frames, modalities, parents, partners, torso, reference_frames, shear,
                            crop_start, crop_padding, clip_index);
  const Integers sizes{static_cast<int64_t>(modalities.size()),
                       arguments.problem.clips,
                       3,
                       joints.size(2),
                       joints.size(3),
                       joints.size(4)};
  Tensor out = torch::stable::new_empty(joints, sizes);
  if (out.numel() > 0) {
    dispatch_floating(joints, "joints", [&](auto scalar) {
      using S = decltype(scalar);
      run_forward<S>(arguments.problem, joints, static_cast<S*>(out.mutable_data_ptr()));
    });
  }
  return out;
}

Tensor derive_modalities_backward(const Tensor& grad_out, const Tensor& joints, const Tensor& num_frames,
                                  Integers modalities, Integers parents, Integers partners, Integers torso,
                                  double reference_frames, std::optional<Tensor> shear,
                                  std::optional<Tensor> crop_start, int64_t crop_padding) {
  const Arguments arguments(joints, num_frames, modalities, parents, partners, torso, reference_frames, shear,
                            crop_start, crop_padding, std::nullopt);
  check_value(grad_out.dim() == 6 && grad_out.size(0) == static_cast<int64_t>(modalities.size()) &&
                  grad_out.numel() == joints.numel() * grad_out.size(0) &&
                  grad_out.scalar_type() == joints.scalar_type() && grad_out.device() == joints.device(),
              "grad_out: expected the shape, dtype and device of the output");
  const Integers sizes(joints.sizes().begin(), joints.sizes().end());
  Tensor grad_joints = torch::stable::new_empty(joints, sizes);
  if (grad_joints.numel() > 0) {
    dispatch_floating(joints, "joints", [&](auto scalar) {
      using S = decltype(scalar);
      run_backward<S>(arguments.problem, joints, grad_out, static_cast<S*>(grad_joints.mutable_data_ptr()));
    });
  }
  return grad_joints;
}

}  // namespace
}  // namespace ikem::modalities

#ifdef IKEM_CUDA_OPERATIONS
STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CUDA, library) {
#else
STABLE_TORCH_LIBRARY_FRAGMENT(ikem_ext, library) {
  library.def(
      "derive_modalities(Tensor joints, Tensor num_frames, int[] modalities, int[] parents, int[] partners, "
      "int[] torso, float reference_frames, Tensor? shear, Tensor? crop_start, int crop_padding, "
      "Tensor? clip_index) -> Tensor");
  library.def(
      "derive_modalities_backward(Tensor grad_out, Tensor joints, Tensor num_frames, int[] modalities, "
      "int[] parents, int[] partners, int[] torso, float reference_frames, Tensor? shear, Tensor? crop_start, "
      "int crop_padding) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ikem_ext, CPU, library) {
#endif
  library.impl("derive_modalities", TORCH_BOX(&ikem::modalities::derive_modalities));
  library.impl("derive_modalities_backward", TORCH_BOX(&ikem::modalities::derive_modalities_backward));
}
