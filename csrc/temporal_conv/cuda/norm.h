// The norm and the ReLU that stand before a convolution: x goes through them as it is read, and the gradient as it is
// written.
#pragma once

#include "batch_norm/math.h"
#include "common/moments.h"
#include "temporal_conv/cuda/features.h"

namespace ikem::temporal_conv::cuda {
namespace {

constexpr int NORM_THREADS = 128;

template <class C>
__global__ void __launch_bounds__(NORM_THREADS) scale_kernel(const __grid_constant__ GivenNorm<C> norm, int channels) {
  for (int c = static_cast<int>(blockIdx.x) * NORM_THREADS + static_cast<int>(threadIdx.x); c < channels;
       c += static_cast<int>(gridDim.x) * NORM_THREADS) {
    norm.scale[c] = norm.weight[c] * batch_norm::inverse_deviation(norm.variance[c], norm.eps);
  }
}

// By what to multiply each channel, into the norm's own memory.
template <class C>
const char* find_scale(const GivenNorm<C>& norm, int64_t channels, void* stream) {
  return norm.given() && channels > 0 ? launch(scale_kernel<C>, blocks_for(divide_up(channels, NORM_THREADS)),
                                               NORM_THREADS, 0, stream, norm, static_cast<int>(channels))
                                      : nullptr;
}

// The norm of L channels, of which `count` are there.
template <class C, int L>
struct NormOfPack {
  Pack<C, L> mean, scale, shift;

  __device__ static NormOfPack of(const Norm<C>& norm, int first, int count) {
    return {gather<L>(norm.mean + first, 1, count), gather<L>(norm.scale + first, 1, count),
            gather<L>(norm.shift + first, 1, count)};
  }

  __device__ C off(int i, C x) const { return x - mean.values[i]; }
  __device__ C normed(int i, C off) const { return off * scale.values[i] + shift.values[i]; }
};

// The norm of some channels, in a block's shared memory. What goes beyond them is zero, and stays so behind the norm.
template <class C, int CHANNELS>
struct NormOfChannels {
  C *mean, *scale, *shift;

  __host__ __device__ explicit NormOfChannels(SharedArrays& shared)
      : mean(shared.take<C>(CHANNELS)), scale(shared.take<C>(CHANNELS)), shift(shared.take<C>(CHANNELS)) {}

  // From channel `first` on, if so many are there. Needs a barrier before and after.
  __device__ void load(const Norm<C>& norm, int first, int count) const {
    const int i = static_cast<int>(threadIdx.x);
    if (norm.given() && i < CHANNELS) {
      const bool inside = i < count;
      mean[i] = inside ? norm.mean[first + i] : C(0);
      scale[i] = inside ? norm.scale[first + i] : C(0);
      shift[i] = inside ? norm.shift[first + i] : C(0);
    }
  }

  template <int L>
  __device__ NormOfPack<C, L> at(int channel) const {
    return {read_pack<L>(mean + channel), read_pack<L>(scale + channel), read_pack<L>(shift + channel)};
  }
};

// Factors of x, which goes through a norm, if there is one, and the ReLU.
template <class T, class C, int CHANNELS>
struct ThroughNorm {
  const NormOfChannels<C, CHANNELS>& norm;
  bool given;

  template <class S, int L>
  __device__ Pack<T, L> operator()(int channel, const Pack<S, L>& x) const {
    if (!given) {
      return AsItIs<T>()(channel, x);
    }
    const auto numbers = norm.template at<L>(channel);
    Pack<T, L> factors;
#pragma unroll
    for (int i = 0; i < L; ++i) {
      const C normed = numbers.normed(i, numbers.off(i, widen(x.values[i])));
      factors.values[i] = narrowed_factor<T>(normed < 0 ? C(0) : normed);  // so that what is not a number stays
    }
    return factors;
  }
};

// The ReLU and the norm behind which a gradient arises, and where the sums of what comes through go, (channels, tiles).
template <class S>
struct Behind {
  Norm<Compute<S>> norm;
  Strided<const S, 4> x;  // what the norm is applied to
  PartialGradientSums<Compute<S>>* sums;
};

// Writes of the gradient in `rows` what goes through the ReLU, of each of `frame_of(output)`, and its sums to sums[0],
// sums[stride], ... Of the rows, which are written over, there have to be twice as many as threads. For all threads of
// a block; needs a barrier before.
template <class S, class C, int N, class F>
__device__ void write_through_relu(const Rows<C, N>& rows, int count, int joints, const Norm<C>& norm,
                                   int first_channel, const Features<const S>& x, const Features<S>& to,
                                   const F& frame_of, PartialGradientSums<C>* sums, int64_t stride) {
  constexpr int L = PACK<C>;
  const Share<N / L> share(to.channel == 1);
  for (int pack = share.first_pack; pack < N / L; pack += share.pack_step) {
    const int channel = pack * L, room = to.channels - channel;
    const auto numbers = NormOfPack<C, L>::of(norm, first_channel + channel, room);
    Pack<C, L> sum{}, product{};
    share.for_each_row(count, joints, [&](int row, int output, int joint) {
      const int64_t frame = frame_of(output);
      Pack<C, L> gradient = rows.pack(row, channel);
      const Pack<S, L> values =
          gather<L>(x.data + frame * x.frame + joint * x.joint + channel * x.channel, x.channel, room);
#pragma unroll
      for (int i = 0; i < L; ++i) {
        const C off = numbers.off(i, widen(values.values[i]));
        gradient.values[i] = numbers.normed(i, off) > 0 ? gradient.values[i] : C(0);
        sum.values[i] += gradient.values[i];
        product.values[i] += gradient.values[i] * off;
      }
      scatter(to.data + frame * to.frame + joint * to.joint + channel * to.channel, to.channel, room, gradient.values);
    });
    // These are rows that no other thread reads.
    rows.pack(share.first, channel) = sum;
    rows.pack(share.first + share.step, channel) = product;
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column < to.channels) {
    PartialGradientSums<C> all{};
    for (int i = 0; i < share.step; ++i) {
      all.of_gradient += rows.at(i)[column];
      all.of_product += rows.at(share.step + i)[column];
    }
    sums[column * stride] = all;
  }
}

}  // namespace
}  // namespace ikem::temporal_conv::cuda
