// The formulas of the six modalities and their gradients, for one joint in one frame; host and CUDA.
//
// C is the type to compute in, float or double. The code is free of branches, so that loops over it vectorize.
#pragma once

#include <cmath>

#include "common/scalar.h"

namespace ikem::modalities {

template <class C>
struct Vec3 {
  C x, y, z;
};

template <class C>
IKEM_INLINE Vec3<C> operator+(Vec3<C> a, Vec3<C> b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}

template <class C>
IKEM_INLINE Vec3<C> operator-(Vec3<C> a, Vec3<C> b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}

template <class C>
IKEM_INLINE Vec3<C> operator*(C factor, Vec3<C> a) {
  return {factor * a.x, factor * a.y, factor * a.z};
}

template <class C>
IKEM_INLINE C dot(Vec3<C> a, Vec3<C> b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <class C>
IKEM_INLINE Vec3<C> cross(Vec3<C> a, Vec3<C> b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class C>
IKEM_INLINE C length(Vec3<C> a) {
  using std::sqrt;
  return sqrt(dot(a, a));
}

// Lengths below this are not divided by.
template <class C>
constexpr C epsilon = static_cast<C>(1e-12);

// v / max(|v|, epsilon)
template <class C>
IKEM_INLINE Vec3<C> normalize(Vec3<C> v) {
  const C size = length(v);
  return (C(1) / (size > epsilon<C> ? size : epsilon<C>)) * v;
}

// Gradient of `normalize` at v, given the gradient of its result.
template <class C>
IKEM_INLINE Vec3<C> normalize_gradient(Vec3<C> v, Vec3<C> gradient) {
  const C size = length(v);
  const C inverse = C(1) / (size > epsilon<C> ? size : epsilon<C>);
  // Where v is not divided by its length, the length does not matter: nothing of the gradient is taken away.
  const Vec3<C> unit = (size > epsilon<C> ? inverse : C(0)) * v;
  return inverse * (gradient - dot(unit, gradient) * unit);
}

// Coefficients of Q in atan(a) = a + a^3 Q(a^2), 0 <= a <= 1, interpolated at Chebyshev nodes.
template <class C>
struct Arctangent;

template <>
struct Arctangent<float> {  // relative error below 1.4e-8 before rounding
  static IKEM_INLINE float polynomial(float z) {
    float q = 0.0014886919f;
    q = q * z - 0.009144629f;
    q = q * z + 0.026305001f;
    q = q * z - 0.048960514f;
    q = q * z + 0.070319146f;
    q = q * z - 0.08931827f;
    q = q * z + 0.11088262f;
    q = q * z - 0.14284004f;
    q = q * z + 0.1999995f;
    return q * z - 0.33333334f;
  }
};

template <>
struct Arctangent<double> {  // relative error below 2.4e-17 before rounding
  static IKEM_INLINE double polynomial(double z) {
    double q = 7.767624330289919e-06;
    q = q * z - 9.371186345052626e-05;
    q = q * z + 0.0005376839297396244;
    q = q * z - 0.0019612554271685326;
    q = q * z + 0.005140912856746939;
    q = q * z - 0.010412153260359241;
    q = q * z + 0.01718398172211335;
    q = q * z - 0.024191345810140718;
    q = q * z + 0.030330719265790507;
    q = q * z - 0.035271331066871296;
    q = q * z + 0.03938687540798632;
    q = q * z - 0.043306538430670664;
    q = q * z + 0.04758080083637821;
    q = q * z - 0.052624922290256754;
    q = q * z + 0.05882264416776449;
    q = q * z - 0.06666657934573768;
    q = q * z + 0.07692307078827029;
    q = q * z - 0.0909090906193528;
    q = q * z + 0.11111111110268297;
    q = q * z - 0.14285714285701234;
    q = q * z + 0.1999999999999992;
    return q * z - 0.3333333333333333;
  }
};

// atan2(y, x) for y >= 0, in [0, pi]; 0 at (0, 0).
template <class C>
IKEM_INLINE C arctangent(C y, C x) {
  const C pi = static_cast<C>(3.14159265358979323846);
  const C width = x < 0 ? -x : x;
  const bool steep = y > width;
  const C large = steep ? y : width;
  const C small = steep ? width : y;
  const C a = small / (large == 0 ? C(1) : large);
  const C z = a * a;
  C angle = a + a * z * Arctangent<C>::polynomial(z);
  angle = steep ? pi / 2 - angle : angle;
  return x < 0 ? pi - angle : angle;
}

// Angle between two bones, by their unit vectors.
template <class C>
IKEM_INLINE C angle_between(Vec3<C> bone, Vec3<C> partner) {
  const Vec3<C> u = normalize(bone);
  const Vec3<C> w = normalize(partner);
  return arctangent(length(cross(u, w)), dot(u, w));
}

// Gradient of the bone, given those of `cross(bone, partner)` and of the angle between the two. (The partner's is had
// by changing places, with the axis turned around.) The angle's is zero where the two are parallel or one of them has
// no length.
template <class C>
IKEM_INLINE Vec3<C> rotation_gradient(Vec3<C> bone, Vec3<C> partner, Vec3<C> g_axis, C g_angle) {
  const Vec3<C> u = normalize(bone);
  const Vec3<C> w = normalize(partner);
  const Vec3<C> normal = cross(u, w);
  const C sine = length(normal);
  const C cosine = dot(u, w);
  const C square = sine * sine + cosine * cosine;
  const C factor = g_angle / (square == 0 ? C(1) : square);
  const C along_normal = cosine * factor / (sine == 0 ? C(1) : sine);
  const Vec3<C> g_unit = along_normal * cross(w, normal) - (sine * factor) * w;
  return cross(partner, g_axis) + normalize_gradient(bone, g_unit);
}

// Unit normal of the torso, by the bones that end at the spine and at the two shoulders.
template <class C>
IKEM_INLINE Vec3<C> torso_normal(Vec3<C> spine, Vec3<C> left, Vec3<C> right) {
  return normalize(cross(spine - right, left - right));
}

template <class C>
struct Torso {
  Vec3<C> spine, left, right;
};

template <class C>
IKEM_INLINE Torso<C> torso_normal_gradient(Torso<C> bones, Vec3<C> gradient) {
  const Vec3<C> a = bones.spine - bones.right;
  const Vec3<C> b = bones.left - bones.right;
  const Vec3<C> g = normalize_gradient(cross(a, b), gradient);
  const Vec3<C> g_spine = cross(b, g);
  const Vec3<C> g_left = cross(g, a);
  return {g_spine, g_left, C(-1) * (g_spine + g_left)};
}

}  // namespace ikem::modalities
