"""Low-rank adaptation (Hu et al., ICLR 2022): a trained network learns on through few weights beside its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def adapted(kernel: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Kernel plus what its adapter says; float32, except under autocast in training."""
    return kernel + (up.float() @ down.float()).view_as(kernel).to(kernel.dtype)


class AdaptedConv3d(nn.Conv3d):
    """A convolution whose kernel is its own plus ``up @ down``, a matrix of low rank; a new one changes nothing.

    Parameters
    ----------
    conv : nn.Conv3d
        Gives shape and weights; no groups, no dilation, zeros beyond the edge.
    rank : int
        Columns of `up`, rows of `down`.
    """

    def __init__(self, conv: nn.Conv3d, rank: int) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )  # fmt: skip
        assert (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1, 1), "zeros")
        self.load_state_dict(conv.state_dict())
        read = self.weight[0].numel()
        self.up = nn.Parameter(torch.zeros(self.out_channels, rank))
        self.down = nn.Parameter(torch.randn(rank, read) / read**0.5)
        self.is_merged = False

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the adapted kernel."""
        kernel = self.weight if self.is_merged else adapted(self.weight, self.up, self.down)
        return self._conv_forward(x, kernel, self.bias)

    @torch.jit.export
    def merge(self) -> None:
        """Make the adapted kernel this layer's own: then `torch.jit.freeze` joins it with the norm that follows.

        It does so only where `forward` adds nothing (`is_merged`). The adapter is empty then, so that neither a second
        merge nor `merged` adds it again.
        """
        self.weight.copy_(adapted(self.weight, self.up, self.down))
        self.up.zero_()
        self.is_merged = True


def adapt(network: nn.Module, rank: int, kept: Sequence[str] = ()) -> None:
    """Put adapters of a rank beside the kernels that a network convolves with, but for those of its parts `kept`."""
    parts = tuple(f"{part}." for part in kept)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv3d) and not f"{name}.".startswith(parts):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, AdaptedConv3d(module, rank))


def has_adapters(network: nn.Module) -> bool:
    """Whether any layer of a network has one."""
    return any(isinstance(module, AdaptedConv3d) for module in network.modules())


def is_adapter(name: str) -> bool:
    """Whether weights of this name are a part of an adapter."""
    return name.endswith((".up", ".down"))


def hold_adapted(network: nn.Module) -> None:
    """Where a network has adapters, leave all its kernels and batch statistics as they are: the rest learns."""
    for module in network.modules() if has_adapters(network) else ():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
        elif isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.weight.requires_grad_(False)


@torch.no_grad()
def merge_adapters(network: nn.Module) -> None:
    """Give every kernel of a network, of an exported one too, what its adapter says."""
    for module in network.modules():
        if merge := getattr(module, "merge", None):
            merge()


def halve_adapters(network: nn.Module) -> None:
    """Hold adapters in bfloat16, half the bytes on disk; nothing is lost of those that `export` has rounded."""
    for module in network.modules():
        if isinstance(module, AdaptedConv3d):
            module.up.data = module.up.data.bfloat16()
            module.down.data = module.down.data.bfloat16()


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network, by name, as those of one without adapters that computes the same."""
    own = {}
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.up" in weights:
            weight = adapted(weight, weights[f"{layer}.up"], weights[f"{layer}.down"])
        if not is_adapter(name):
            own[name] = weight
    return own
