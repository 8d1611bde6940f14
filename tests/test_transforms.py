"""Every operation under every derivative and transform of PyTorch: the plain twin's value, or an error that says so.

The table below says which, cell by cell; a change of either kind fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.nn.functional import normalize
from torch.utils._pytree import tree_leaves

import ikem_ext
from ikem_ext import SkeletonLayout, reference

Function = Callable[..., Tensor]
Values = tuple[Tensor, ...]

# One row for each operation, one column for each transform: + is the twin's value, - an error by name.
TABLE = """
                              graph_conv  temporal_conv  batch_norm  modalities  linear_modalities  losses  queue_logsumexp  exchange_logsumexp
backward                          +            +            +           +               +             +           +                 +
backward_through_a_gradient       +            +            -           -               +             -           -                 -
dual_numbers                      +            +            -           -               +             +           +                 +
dual_numbers_backward             +            +            -           -               +             -           -                 -
dual_numbers_through_a_gradient   +            +            -           -               +             -           -                 -
func_grad                         +            +            +           +               +             +           +                 +
func_vjp                          +            +            +           +               +             +           +                 +
func_jvp                          +            +            -           -               +             +           +                 +
func_jacrev                       +            +            +           +               +             +           +                 +
func_jacfwd                       +            +            -           -               +             +           +                 +
func_hessian                      +            +            -           -               +             -           -                 -
func_linearize                    +            +            -           -               +             +           +                 +
grad_of_grad                      +            +            -           -               +             -           -                 -
grad_of_jvp                       +            +            -           -               +             -           -                 -
jvp_of_jvp                        +            +            -           -               +             -           -                 -
vmap_of_all                       +            +            +           +               +             +           +                 +
vmap_of_each                      +            +            +           +               +             +           +                 +
vmap_of_vmap                      +            +            +           +               +             +           +                 +
backward_of_vmap                  +            +            +           +               +             +           +                 +
grad_of_vmap                      +            +            +           +               +             +           +                 +
jvp_of_vmap                       +            +            -           -               +             +           +                 +
vmap_of_grad                      +            +            +           +               +             +           +                 +
vmap_of_vjp                       +            +            +           +               +             +           +                 +
vmap_of_jvp                       +            +            -           -               +             +           +                 +
vmap_of_jacrev                    +            +            +           +               +             +           +                 +
vmap_of_jacfwd                    +            +            -           -               +             +           +                 +
vmap_of_hessian                   +            +            -           -               +             -           -                 -
"""  # noqa: E501
_HEADER, *_ROWS = (line.split() for line in TABLE.strip().splitlines())
EXPECTED = {(kind, name): cell == "+" for name, *cells in _ROWS for kind, cell in zip(_HEADER, cells, strict=True)}


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def unit(*shape: int) -> Tensor:
    return normalize(numbers(*shape), dim=-1)


def likewise(values: Values) -> Values:
    """A direction for each value, or a gradient, the same for the same shapes."""
    return tuple(torch.arange(1.0, value.numel() + 1).sin().to(value.dtype).view(value.shape) for value in values)


def loss(function: Function) -> Function:
    """One number, with second derivatives of its own."""
    return lambda *values: sum(each.square().sum() for each in tree_leaves(function(*values)))


def everything(values: Values) -> tuple[int, ...]:
    return tuple(range(len(values)))


def thrice(values: Values) -> Values:
    """Three of each to map over, not along the first axis."""
    return tuple(torch.stack([value, 0.5 * value, -value], dim=min(1, value.dim())) for value in values)


def axes(values: Values) -> tuple[int, ...]:
    return tuple(min(1, value.dim()) for value in values)


def leaves(values: Values) -> Values:
    return tuple(value.clone().requires_grad_() for value in values)


def gradients(function: Function, values: Values, **options: Any) -> Values:
    return torch.autograd.grad(loss(function)(*values), values, **options)


def backward(f: Function, values: Values) -> Any:
    return gradients(f, leaves(values))


def backward_through_a_gradient(f: Function, values: Values) -> Any:
    values = leaves(values)
    given = gradients(f, values, create_graph=True)
    return torch.autograd.grad(given, values, likewise(values), allow_unused=True, materialize_grads=True)


def dual_numbers(f: Function, values: Values) -> Any:
    """Values and tangents."""
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, values, likewise(values))
        return tree_leaves([tuple(forward_ad.unpack_dual(each)) for each in tree_leaves(f(*duals))])


def dual_numbers_backward(f: Function, values: Values) -> Any:
    return gradients(lambda *each: dual_numbers(f, each), leaves(values))


def dual_numbers_through_a_gradient(f: Function, values: Values) -> Any:
    return dual_numbers(lambda *each: gradients(f, each, create_graph=True), leaves(values))


def func_grad(f: Function, values: Values) -> Any:
    return grad(loss(f), argnums=everything(values))(*values)


def func_vjp(f: Function, values: Values) -> Any:
    output, back = vjp(f, *values)
    return output, back(likewise(output) if isinstance(output, tuple) else likewise((output,))[0])


def func_jvp(f: Function, values: Values) -> Any:
    return jvp(f, values, likewise(values))


def func_jacrev(f: Function, values: Values) -> Any:
    return jacrev(f, argnums=everything(values))(*values)


def func_jacfwd(f: Function, values: Values) -> Any:
    return jacfwd(f, argnums=everything(values))(*values)


def func_hessian(f: Function, values: Values) -> Any:
    return hessian(loss(f), argnums=everything(values))(*values)


def func_linearize(f: Function, values: Values) -> Any:
    return linearize(f, *values)[1](*likewise(values))


def grad_of_grad(f: Function, values: Values) -> Any:
    return func_grad(lambda *each: func_grad(f, each), values)


def grad_of_jvp(f: Function, values: Values) -> Any:
    return grad(loss(lambda *each: jvp(f, each, likewise(values))[1]), argnums=everything(values))(*values)


def jvp_of_jvp(f: Function, values: Values) -> Any:
    return jvp(lambda *each: jvp(f, each, likewise(values))[1], values, likewise(values))


def vmap_of_all(f: Function, values: Values) -> Any:
    return vmap(f, in_dims=axes(values))(*thrice(values))


def vmap_of_each(f: Function, values: Values) -> Any:
    """One argument mapped over, the others not."""
    results = []
    for index in everything(values):
        in_dims = tuple(axis if at == index else None for at, axis in enumerate(axes(values)))
        some = [many if at == index else one for at, (one, many) in enumerate(zip(values, thrice(values), strict=True))]
        results.append(vmap(f, in_dims=in_dims)(*some))
    return results


def vmap_of_vmap(f: Function, values: Values) -> Any:
    first, *others = values
    twice = torch.stack([torch.stack([first, -first])] * 3, 1)
    return vmap(vmap(lambda each: f(each, *others)))(twice)


def backward_of_vmap(f: Function, values: Values) -> Any:
    return gradients(lambda *each: vmap_of_all(f, each), leaves(values))


def grad_of_vmap(f: Function, values: Values) -> Any:
    return func_grad(lambda *each: vmap_of_each(f, each), values)


def jvp_of_vmap(f: Function, values: Values) -> Any:
    return func_jvp(lambda *each: vmap_of_all(f, each), values)


def vmap_of_grad(f: Function, values: Values) -> Any:
    """Gradients for each sample; each argument is what makes them once."""
    return vmap_of_each(grad(loss(f), argnums=everything(values)), values)


def vmap_of_vjp(f: Function, values: Values) -> Any:
    return vmap_of_each(lambda *each: func_vjp(f, each), values)


def vmap_of_jvp(f: Function, values: Values) -> Any:
    return vmap_of_each(lambda *each: func_jvp(f, each), values)


def vmap_of_jacrev(f: Function, values: Values) -> Any:
    return vmap_of_each(lambda *each: func_jacrev(f, each), values)


def vmap_of_jacfwd(f: Function, values: Values) -> Any:
    return vmap_of_each(lambda *each: func_jacfwd(f, each), values)


def vmap_of_hessian(f: Function, values: Values) -> Any:
    return vmap_of_each(lambda *each: func_hessian(f, each), values)


@dataclass(frozen=True)
class Case:
    """An operation, its plain twin, both as functions of what they are differentiated by; ``kind`` is its column."""

    kind: str
    values: Values
    ours: Function
    plain: Function
    named: str  # by an error


def graph_conv_case(per: str, groups: tuple[int, ...] = (), biased: bool = True, native: bool = False) -> Case:
    adjacency = {"shared": (2, 3, 2), "clip": (2, 2, 3, 2), "channel": (2, 2, 2, 3, 2)}[per]
    shapes = (2, 1, 2, 3), (2, 2, 1), (2, 2), adjacency
    x, weight, bias, adjacency = (numbers(*groups, *shape) for shape in shapes)
    ours = (lambda *each: torch.ops.ikem_ext.graph_conv(*each, False)) if native else ikem_ext.graph_conv
    if biased:
        return Case("graph_conv", (x, weight, bias, adjacency), ours, reference.graph_conv, "graph_conv")

    def without_bias(function: Function) -> Function:
        return lambda x, weight, adjacency: function(x, weight, None, adjacency)

    values = x, weight, adjacency
    return Case("graph_conv", values, without_bias(ours), without_bias(reference.graph_conv), "graph_conv")


def refined_graph_conv_case(biased: bool = True, native: bool = False) -> Case:
    shapes = (2, 1, 2, 3), (2, 2, 1), (2, 2), (2, 2, 2, 3, 2), (2, 2, 2)
    x, weight, bias, relations, mixing = (numbers(*shape) for shape in shapes)
    ours = torch.ops.ikem_ext.refined_graph_conv if native else ikem_ext.refined_graph_conv
    values: Values = (x, weight, bias, relations, mixing)

    def without_bias(function: Function) -> Function:
        return lambda x, weight, *others: function(x, weight, None, *others)

    plain = reference.refined_graph_conv
    if not biased:
        values, ours, plain = (x, weight, relations, mixing), without_bias(ours), without_bias(plain)
    return Case("graph_conv", values, ours, plain, "refined_graph_conv")


def pairwise_products_case(native: bool = False) -> Case:
    ours = torch.ops.ikem_ext.pairwise_products if native else ikem_ext.pairwise_products

    def of(function: Function) -> Function:
        return lambda x: function(x, 2)

    return Case("graph_conv", (numbers(2, 4, 2, 3),), of(ours), of(reference.pairwise_products), "pairwise_products")


def temporal_conv_case(biased: bool = True, native: bool = False) -> Case:
    x, weight, bias = numbers(2, 2, 5, 2), numbers(3, 2, 3), numbers(3)
    if native:

        def ours(*each: Tensor) -> Tensor:
            return torch.ops.ikem_ext.temporal_conv(*each, 2, 1, 1, False)

    else:

        def ours(*each: Tensor) -> Tensor:
            return ikem_ext.temporal_conv(*each, stride=2, padding=1)

    values = (x, weight, bias) if biased else (x, weight)
    plain = partial(reference.temporal_conv, stride=2, padding=1)
    return Case("temporal_conv", values, ours, plain, "temporal_conv")


def graph_conv_with_moments_case() -> Case:
    def of(function: Function) -> Function:
        return lambda *each: function(*each, moments=True)[0]

    values = graph_conv_case("shared").values
    return Case("graph_conv", values, of(ikem_ext.graph_conv), of(reference.graph_conv), "graph_conv")


def temporal_conv_with_moments_case() -> Case:
    def of(function: Function) -> Function:
        return lambda *each: function(*each, stride=2, padding=1, moments=True)[0]

    values = temporal_conv_case().values
    return Case("temporal_conv", values, of(ikem_ext.temporal_conv), of(reference.temporal_conv), "temporal_conv")


def normed_temporal_conv_case() -> Case:
    """Its moments come from a convolution that leaves x what it is."""

    def of(library: Any) -> Function:
        def chain(x: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
            one = torch.eye(2, dtype=x.dtype)[None]
            x, moments = library.graph_conv(x, one, None, one, moments=True)
            return library.temporal_conv(x, weight, bias, padding=1, norm=(norm_weight, norm_bias, moments, 1e-5))

        return chain

    values = numbers(2, 2, 5, 2), numbers(3, 2, 3), numbers(3), numbers(2), numbers(2)
    return Case("batch_norm", values, of(ikem_ext), of(reference), "temporal_conv")


def batch_norm_case(residual: bool) -> Case:
    def of(function: Function) -> Function:
        return lambda x, weight, bias, *others: function(
            x, weight, bias, residual=others[0] if others else None, relu=True
        )

    values = numbers(2, 2, 3, 2), numbers(2), numbers(2), *((numbers(2, 2, 3, 2),) if residual else ())
    return Case("batch_norm", values, of(ikem_ext.batch_norm), of(reference.batch_norm), "batch_norm")


SMALL = SkeletonLayout("small", ("hip", "chest", "hand"), (0, 0, 1), (1, 0, 2))
IMAGE = replace(SMALL, third="confidence")
LINEAR = ("acceleration", "joint", "motion")


def modalities_case(modalities: tuple[str, ...], layout: SkeletonLayout = SMALL, **options: Any) -> Case:
    joints, num_frames = numbers(2, 3, 3, 3, 1), torch.tensor([40, 70])

    def of(function: Function) -> Function:
        return lambda joints: function(joints, num_frames, layout, modalities=modalities, **options)

    kind = "linear_modalities" if set(modalities) <= set(LINEAR) else "modalities"
    ours, plain = of(ikem_ext.derive_modalities), of(reference.derive_modalities)
    return Case(kind, (joints,), ours, plain, "derive_modalities")


def loss_case(name: str, values: Values, *others: Any, **options: Any) -> Case:
    def of(library: Any) -> Function:
        return lambda *each: getattr(library, name)(*each, *others, 0.5, **options)

    return Case("losses", values, of(ikem_ext), of(reference), name)


def plain_queue_logsumexp(q: Tensor, queue: Tensor) -> Tensor:
    """q (G, N, P * C), queue (G, P, K, C)."""
    return (2.0 * q @ queue.transpose(1, 2).flatten(2).mT).logsumexp(-1)


def plain_exchange(q: Tensor, queue: Tensor) -> Values:
    """Within one set: q (A, N, C), queue (A, 1, K, C); the diagonal, which means nothing, as zero."""
    s = q @ queue[:, 0].mT
    product = (2.0 * s[:, None] * s).logsumexp(-1)
    return (2.0 * s).logsumexp(-1), product * (1 - torch.eye(len(q), dtype=q.dtype))[..., None]


def native_exchange(q: Tensor, queue: Tensor) -> Values:
    single, product, _ = torch.ops.ikem_ext.exchange_logsumexp(q, queue, None, None, 2.0, 1, True, False)
    return single, product * (1 - torch.eye(len(q), dtype=q.dtype))[..., None]


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    augmentation = {"shear": numbers(2, 3, 3), "crop_start": torch.tensor([0, 2]), "crop_padding": 1}
    q, k, queue = unit(2, 2, 3), unit(2, 2, 3), unit(2, 4, 3)
    guide = unit(2, 4), unit(4, 4), unit(3, 2, 2), unit(3, 4, 2)
    return {
        "graph_conv": graph_conv_case("shared"),
        "graph_conv, no bias": graph_conv_case("shared", biased=False),
        "graph_conv, per clip": graph_conv_case("clip"),
        "graph_conv, per channel": graph_conv_case("channel", biased=False),
        "graph_conv, groups": graph_conv_case("clip", (2,)),
        "graph_conv, native": graph_conv_case("shared", native=True),
        "graph_conv, moments": graph_conv_with_moments_case(),
        "refined_graph_conv": refined_graph_conv_case(),
        "refined_graph_conv, no bias": refined_graph_conv_case(biased=False),
        "refined_graph_conv, native": refined_graph_conv_case(native=True),
        "pairwise_products": pairwise_products_case(),
        "pairwise_products, native": pairwise_products_case(native=True),
        "temporal_conv": temporal_conv_case(),
        "temporal_conv, no bias": temporal_conv_case(biased=False),
        "temporal_conv, native": temporal_conv_case(native=True),
        "temporal_conv, moments": temporal_conv_with_moments_case(),
        "temporal_conv, normed": normed_temporal_conv_case(),
        "batch_norm": batch_norm_case(residual=False),
        "batch_norm, residual": batch_norm_case(residual=True),
        "derive_modalities": modalities_case(ikem_ext.MODALITIES),
        "derive_modalities, bone": modalities_case(("joint", "bone"), **augmentation),
        "derive_modalities, linear": modalities_case(LINEAR),
        "derive_modalities, linear and augmented": modalities_case(LINEAR, **augmentation),
        "derive_modalities, in an image": modalities_case(("bone", "joint"), IMAGE, **augmentation),
        "derive_modalities, linear in an image": modalities_case(LINEAR, IMAGE, **augmentation),
        "info_nce": loss_case("info_nce", (q, k, queue)),
        "info_nce, one modality": loss_case("info_nce", (q[0], k[0], queue[0])),
        "cross_modal_nce": loss_case("cross_modal_nce", (q, k, queue), topk=2),
        "cross_modal_nce, no context": loss_case("cross_modal_nce", (q, k, queue), context=False),
        "implicit_exchange": loss_case("implicit_exchange", (unit(2, 2, 6), k, queue)),
        "relational_distillation": loss_case("relational_distillation", (unit(2, 2, 4),), *guide),
        "queue_logsumexp": Case(
            "queue_logsumexp",
            (unit(2, 2, 6), unit(2, 2, 4, 3)),
            lambda q, queue: torch.ops.ikem_ext.queue_logsumexp(q, queue, 2.0, False, False)[0],
            plain_queue_logsumexp,
            "queue_logsumexp",
        ),
        "exchange_logsumexp": Case(
            "exchange_logsumexp", (q, queue[:, None]), native_exchange, plain_exchange, "exchange_logsumexp"
        ),
    }


CASES = cases()


def test_the_table_has_a_row_for_each_transform_here() -> None:
    for _, name in EXPECTED:
        assert callable(globals()[name])
    assert {case.kind for case in CASES.values()} == set(_HEADER)


@pytest.mark.filterwarnings("ignore::UserWarning:torch.fx", "ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", [name for name, *_ in _ROWS])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gives_the_twins_value_or_an_error(case: Case, name: str) -> None:
    transform = globals()[name]
    if not EXPECTED[case.kind, name]:
        with pytest.raises(NotImplementedError, match=rf"{case.named}.*: no .*derivatives.*ikem_ext.reference"):
            transform(case.ours, case.values)
        return
    ours, plain = (tree_leaves(transform(function, case.values)) for function in (case.ours, case.plain))
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


MIXED: dict[str, Callable[[Function, Values, int, int], Any]] = {
    "backward of backward": lambda f, values, by, along: backward_of_backward(f, leaves(values), by, along),
    "grad of grad": lambda f, values, by, along: grad(loss(grad(total(f), argnums=by)), argnums=along)(*values),
    "jvp of grad": lambda f, values, by, along: jvp(
        *only(grad(total(f), argnums=by), values, along), (likewise(values)[along],)
    ),
    "grad of jvp": lambda f, values, by, along: grad(loss(lambda *each: jvp_by(f, each, by)), argnums=along)(*values),
    "jvp of jvp": lambda f, values, by, along: jvp(
        *only(lambda *each: jvp_by(f, each, by), values, along), (likewise(values)[along],)
    ),
    "dual numbers through backward": lambda f, values, by, along: dual_through_backward(f, values, by, along),
}


def total(function: Function) -> Function:
    """The sum: the gradients that come back from it are constants, and hide no dependency that was lost."""
    return lambda *values: sum(each.sum() for each in tree_leaves(function(*values)))


def only(f: Function, values: Values, index: int) -> tuple[Function, Values]:
    """As a function of one value alone."""
    return lambda value: f(*values[:index], value, *values[index + 1 :]), (values[index],)


def jvp_by(f: Function, values: Values, by: int) -> Tensor:
    return jvp(*only(f, values, by), (likewise(values)[by],))[1]


def backward_of_backward(f: Function, values: Values, by: int, along: int) -> Any:
    (given,) = torch.autograd.grad(total(f)(*values), values[by], create_graph=True)
    if not given.requires_grad:
        return torch.zeros_like(values[along])
    return torch.autograd.grad(loss(lambda: given)(), values[along], allow_unused=True, materialize_grads=True)


def dual_through_backward(f: Function, values: Values, by: int, along: int) -> Any:
    with forward_ad.dual_level():
        duals = list(values)
        duals[by] = duals[by].clone().requires_grad_()
        duals[along] = forward_ad.make_dual(duals[along], likewise(values)[along])
        (given,) = torch.autograd.grad(total(f)(*duals), duals[by], create_graph=True)
        tangent = forward_ad.unpack_dual(given).tangent
    return torch.zeros_like(values[by]) if tangent is None else tangent


@pytest.mark.parametrize("transform", [func_grad, func_jvp, vmap_of_grad])
@pytest.mark.parametrize(
    "case",
    [
        "graph_conv",
        "refined_graph_conv",
        "pairwise_products",
        "temporal_conv",
        "derive_modalities, linear",
        "info_nce",
        "cross_modal_nce",
    ],
)
def test_transforms_compile(case: str, transform: Callable[[Function, Values], Any]) -> None:
    ours, values = CASES[case].ours, CASES[case].values
    torch.compiler.reset()
    compiled = torch.compile(lambda *each: transform(ours, each), fullgraph=True, backend="aot_eager")
    for a, b in zip(tree_leaves(compiled(*values)), tree_leaves(transform(ours, values)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MIXED)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_a_gradient_depends_on_is_never_forgotten(case: Case, mode: str) -> None:
    """Second derivatives by each pair of values: right, or refused; never what is left when a dependency is lost."""
    for by in everything(case.values):
        for along in everything(case.values):
            try:
                ours = MIXED[mode](case.ours, case.values, by, along)
            except NotImplementedError:
                assert not EXPECTED[case.kind, "func_hessian"]
                continue
            plain = MIXED[mode](case.plain, case.values, by, along)
            for a, b in zip(tree_leaves(ours), tree_leaves(plain), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
