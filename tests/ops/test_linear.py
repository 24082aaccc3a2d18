from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from worldline.ops import linear as ops
from worldline.ops.linear import (
    block_linear,
    block_product,
    block_weight_grad,
    join_parts,
    linear,
    product,
    split_parts,
    uses_onednn,
)

# rows, blocks, inputs and outputs of a block. The last one is large enough for one product a block.
SIZES = [(1, 1, 2, 3), (5, 4, 3, 6), (32, 2, 96, 192)]


@pytest.fixture(params=["by size", "onednn"], autouse=True)
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with the kernels that its sizes would get, and with oneDNN's where it can be used."""
    if request.param == "onednn":
        monkeypatch.setattr(ops, "_MIN_WORK", 0)
        monkeypatch.setattr(ops, "_PREFERS_ONEDNN", ops._HAS_ONEDNN)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(weight: Tensor) -> Tensor:
    """Return `weight [G, I, O]` as the dense matrix `[G * I, G * O]`, zero between blocks."""
    return torch.block_diag(*weight)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_where_onednn_is_used(monkeypatch: pytest.MonkeyPatch):
    x = torch.zeros(2, 2)
    monkeypatch.setattr(ops, "_PREFERS_ONEDNN", False)
    assert not uses_onednn(x)
    monkeypatch.setattr(ops, "_PREFERS_ONEDNN", True)
    assert uses_onednn(x)
    assert not uses_onednn(x.double())
    assert not uses_onednn(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not uses_onednn(x)


def test_processors_say_who_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for maker, is_intel in (("GenuineIntel", True), ("AuthenticAMD", False)):
        path = tmp_path / maker
        path.write_text(f"processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 6\n")
        assert ops.is_made_by_intel(path) == is_intel
        monkeypatch.setattr(ops.platform, "processor", lambda maker=maker: f"Intel64 Family 6 Model 85, {maker}")
        assert ops.is_made_by_intel(tmp_path / "no such file") == is_intel


def test_mkl_is_for_processors_of_intel():
    code = "import worldline.ops.linear as ops; print(ops._PREFERS_ONEDNN)"
    has_mkl = torch.backends.mkl.is_available()
    for maker, prefers in (("GenuineIntel", not has_mkl), ("AuthenticAMD", True)):
        fake = f"import pathlib, io; pathlib.Path.open = lambda *_, **__: io.StringIO('vendor_id : {maker}')"
        done = subprocess.run([sys.executable, "-c", f"import torch; {fake}; {code}"], capture_output=True, text=True)
        assert done.stdout.strip() == str(prefers and ops._HAS_ONEDNN), done.stderr


def test_product_by_hand():
    x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    assert product(x, weight).tolist() == [[11, 17]]
    assert product(x, weight, torch.tensor([1.0, -1.0])).tolist() == [[12, 16]]


@pytest.mark.parametrize("layout", ["dense", "transposed", "rows strided", "columns strided", "both strided"])
def test_product_of_any_layout(layout: str):
    """Slices and transposes must not reach oneDNN as they are, yet give the same numbers."""
    big = noise(14, 10, seed=1)
    weight = {
        "dense": big[:7, :5].contiguous(),
        "transposed": big[:5, :7].contiguous().t(),
        "rows strided": big[:7, 2:7],
        "columns strided": big.t()[:7, 2:7],
        "both strided": big[::2, ::2],
    }[layout]
    for x in (noise(3, 5), noise(5, 3).t(), noise(3, 9)[:, 2:7], noise(3, 10)[:, ::2]):
        assert close(product(x, weight), x @ weight.t())


def test_linear_by_hand_and_with_free_leading_dimensions():
    weight, bias = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]]), torch.tensor([0.0, 1.0, 2.0])
    assert linear(torch.tensor([1.0, 1.0]), weight, bias).tolist() == [3, 0, 5]
    assert linear(torch.tensor([[[2.0, 1.0]]]), weight).tolist() == [[[4, -1, 6]]]


@pytest.mark.parametrize("leading", [(), (1,), (4,), (3, 2)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_and_its_gradients_are_torchs(leading: tuple[int, ...], has_bias: bool):
    tensors = [noise(*leading, 6), noise(5, 6, seed=1), noise(5, seed=2)][: 3 if has_bias else 2]
    grad = noise(*leading, 5, seed=3)
    results = []
    for function in (linear, F.linear):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        output.backward(grad)
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert close(ours, theirs)


def test_only_what_asks_for_a_gradient_gets_one():
    x, weight = noise(3, 4), noise(2, 4, seed=1).requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is None
    assert close(weight.grad, x.sum(0).expand(2, 4))


def test_linear_in_other_types():
    x, weight = noise(3, 4), noise(2, 4, seed=1)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = linear(x, weight)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), x @ weight.t(), rtol=0.05, atol=0.05)


def test_block_linear_by_hand():
    weight = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # [G, I, O]: two blocks, 1 -> 2
    x = torch.tensor([[10.0, 100.0]])
    assert block_linear(x, weight, torch.arange(4.0)).tolist() == [[10, 21, 302, 403]]
    # In two parts: the first output of both blocks, then the second.
    assert block_linear(x, weight, torch.arange(4.0), parts=2).tolist() == [[[10, 302]], [[21, 403]]]


def check_block_linear(rows: int, blocks: int, size: int, out: int, parts: int) -> None:
    tensors = [noise(rows, blocks * size), noise(blocks, size, out, seed=1), noise(blocks * out, seed=2)]
    grad = noise(rows, blocks * out, seed=3)
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    theirs = [tensor.clone().requires_grad_() for tensor in tensors]
    expected = theirs[0] @ dense(theirs[1]) + theirs[2]
    expected.backward(grad)
    result = block_linear(*ours, parts=parts)
    if parts > 1:
        assert result.shape == (parts, rows, blocks * out // parts)
        result = join_parts(result, blocks)
    result.backward(grad)
    assert close(result.detach(), expected.detach())
    for own, other in zip(ours, theirs, strict=True):
        assert close(own.grad, other.grad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", [1, 3])
def test_block_linear_and_its_gradients_are_those_of_a_dense_layer(size: tuple[int, int, int, int], parts: int):
    check_block_linear(*size, parts)


@pytest.mark.parametrize("parts", [1, 3])
def test_one_product_a_block_and_one_for_all_agree(parts: int, monkeypatch: pytest.MonkeyPatch):
    rows, blocks, size, out = SIZES[-1]
    assert rows * size * out >= ops._MIN_WORK, "the size does not take the path by block"
    x, weight, grad = noise(rows, blocks * size), noise(blocks, size, out, seed=1), noise(rows, blocks * out, seed=2)
    by_block = block_product(x, weight, parts), block_weight_grad(x, grad, blocks)
    monkeypatch.setattr(ops, "_MIN_WORK", 1 << 60)
    together = block_product(x, weight, parts), block_weight_grad(x, grad, blocks)
    for ours, theirs in zip(by_block, together, strict=True):
        assert close(ours, theirs)


def test_block_linear_gradcheck():
    tensors = (
        noise(2, 3, 4, dtype=torch.float64),
        noise(2, 2, 6, seed=1, dtype=torch.float64),
        noise(12, seed=2, dtype=torch.float64),
    )
    leaves = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(block_linear, leaves)
    assert torch.autograd.gradcheck(lambda *args: block_linear(*args, parts=3), leaves)


def test_leading_dimensions_of_block_linear():
    x, weight = noise(2, 3, 4), noise(2, 2, 6, seed=1)
    assert block_linear(x, weight).shape == (2, 3, 12)
    assert block_linear(x, weight, parts=3).shape == (3, 2, 3, 4)
    assert close(block_linear(x, weight)[1], block_linear(x[1], weight))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("parts", [1, 3])
def test_results_can_be_changed_in_place(rows: int, parts: int):
    weight = noise(2, 2, 6, seed=1).requires_grad_()
    grads = []
    for x in (noise(rows, 4), noise(rows, 4).requires_grad_()):
        result = block_linear(x, weight, parts=parts)
        result += 1
        grads.append(torch.autograd.grad(result.square().sum(), weight)[0])
    assert close(*grads)


def test_parts_and_back():
    bias = torch.arange(12.0)  # 2 blocks of 3 parts of 2
    parts = split_parts(bias, 2, 3)
    assert parts.tolist() == [[[0, 1, 6, 7]], [[2, 3, 8, 9]], [[4, 5, 10, 11]]]
    assert torch.equal(join_parts(parts, 2)[0], bias)
    assert split_parts(bias, 2, 1) is bias


def test_shapes_are_checked():
    with pytest.raises(AssertionError, match=r"x \(2, 3\) does not match weight \(5, 4\)"):
        linear(torch.zeros(2, 3), torch.zeros(5, 4))
    with pytest.raises(AssertionError, match=r"x \(2, 3\) does not match weight \(2, 2, 4\)"):
        block_linear(torch.zeros(2, 3), torch.zeros(2, 2, 4))


def test_compiled_products_are_those_of_onednn():
    """They appear in the traced graph as one operator, and give the same values and gradients."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    x, weight, bias = noise(40, 96), noise(160, 96, seed=1), noise(160, seed=2)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    def values_and_gradients(function):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        output = function(*leaves)
        output.square().sum().backward()
        return [output.detach(), *(leaf.grad for leaf in leaves)]

    expected = values_and_gradients(linear)
    torch._dynamo.reset()
    found = values_and_gradients(torch.compile(linear, backend=aot_autograd(fw_compiler=backend), dynamic=False))
    assert all(close(*pair) for pair in zip(found, expected, strict=True))
    assert sum("worldline.product" in name for name in seen) == (3 if uses_onednn(x) else 0)


def test_the_compilers_operator_is_well_behaved():
    x, weight, bias = noise(40, 96), noise(160, 96, seed=1), noise(160, seed=2)
    torch.library.opcheck(torch.ops.worldline.product.default, (x, weight, bias))
    torch.library.opcheck(torch.ops.worldline.product.default, (noise(96, 40).t(), noise(96, 160).t(), None))


def test_no_rows():
    assert linear(torch.zeros(0, 3), torch.zeros(5, 3)).shape == (0, 5)
